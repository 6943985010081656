"""Two workers take tasks from one queue and put results into another."""

import torch.multiprocessing as mp

import seclea


def work(tasks, results):
    while (task := tasks.get()) is not None:
        number, text = task
        seclea.log({"length": len(text)}, step=number)
        results.put((number, text.upper()))


if __name__ == "__main__":
    seclea.init("Programs", "tasks")
    tasks, results = mp.Queue(), mp.Queue(maxsize=10)
    workers = [mp.Process(target=work, args=(tasks, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for number in range(50):
        tasks.put((number, f"text {number}"))
    for _ in workers:
        tasks.put(None)
    print(sorted(results.get(timeout=60) for _ in range(50)))
    for worker in workers:
        worker.join()
    print([worker.exitcode for worker in workers], results.empty(), seclea.finish(timeout=60).done)
