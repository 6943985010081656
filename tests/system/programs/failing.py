"""Two processes by `spawn`, one of which raises: the parent is told which, and why."""

import torch.multiprocessing as mp

import seclea


def work(rank, results):
    seclea.log({"started": 1.0}, step=rank)
    if rank == 1:
        raise ValueError("rank 1 cannot go on")
    results.put("rank 0 is done")


if __name__ == "__main__":
    run = seclea.init("Programs", "failing")
    results = mp.get_context("spawn").Queue()
    context = mp.spawn(work, args=(results,), nprocs=2, join=False)
    print(results.get(timeout=60))
    try:
        while not context.join():
            pass
    except mp.ProcessRaisedException as error:
        print(type(error).__module__, error.error_index, "ValueError: rank 1 cannot go on" in str(error))
        print(run.finish("failed", timeout=60).done)
