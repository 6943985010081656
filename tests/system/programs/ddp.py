"""DDP on two processes with gloo, started by `spawn`; each sends its loss home through a queue."""

import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import seclea


def train(rank, world_size, port, losses):
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "127.0.0.1", str(port)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(rank)
    for step in range(4):
        x = torch.randn(8, 2)
        loss = ((model(x) - x.sum(dim=1, keepdim=True)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seclea.log({"loss": loss}, step=100 * rank + step)
    losses.put((rank, round(loss.item(), 4), [round(value, 4) for value in model.module.weight[0].tolist()]))
    dist.destroy_process_group()


if __name__ == "__main__":
    seclea.init("Programs", "ddp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    losses = mp.get_context("spawn").Queue()
    mp.spawn(train, args=(2, port, losses), nprocs=2)
    print(sorted(losses.get(timeout=60) for _ in range(2)))
    print(seclea.finish(timeout=60).done)
