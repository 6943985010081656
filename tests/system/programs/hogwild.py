"""Hogwild: two processes train one shared model; what they came to comes back through a queue."""

import torch
import torch.multiprocessing as mp

import seclea


def model():
    torch.manual_seed(0)
    return torch.nn.Linear(4, 1)


def train(rank, shared, results, done):
    torch.manual_seed(rank)
    optimizer = torch.optim.SGD(shared.parameters(), lr=0.01)
    for step in range(5):
        x = torch.randn(16, 4)
        loss = ((shared(x) - x.sum(dim=1, keepdim=True)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seclea.log({"loss": loss.item()}, step=100 * rank + step)
    results.put({"rank": rank, "steps": 5, "weight": shared.weight.detach().clone().fill_(rank)})
    done.wait()  # a tensor's memory is its sender's until it was taken


def main():
    seclea.init("Programs", "hogwild")
    shared = model()
    before = shared.weight.detach().clone()
    shared.share_memory()
    results, done = mp.Queue(), mp.Event()
    processes = [mp.Process(target=train, args=(rank, shared, results, done)) for rank in range(2)]
    for process in processes:
        process.start()
    came = sorted((results.get(timeout=60) for _ in processes), key=lambda result: result["rank"])
    done.set()
    for process in processes:
        process.join()
    print([(result["rank"], result["steps"], result["weight"].tolist()) for result in came])
    print(all(result["weight"].is_shared() for result in came), not torch.equal(before, shared.weight))
    print([process.exitcode for process in processes], seclea.finish(timeout=60).done)


if __name__ == "__main__":
    main()
