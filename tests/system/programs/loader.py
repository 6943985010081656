"""A DataLoader with four workers, which log what they read."""

import torch
import torch.multiprocessing as mp
from torch.utils.data import DataLoader, Dataset

import seclea


class Squares(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        seclea.log({"read": float(index)}, step=index)
        return torch.tensor([float(index)]), torch.tensor([float(index) ** 2])


if __name__ == "__main__":
    seclea.init("Programs", "loader")
    loader = DataLoader(Squares(), batch_size=2, num_workers=4, multiprocessing_context=mp.get_context("fork"))
    for epoch in range(2):
        batches = [(x.flatten().tolist(), y.flatten().tolist()) for x, y in loader]
        seclea.log({"epoch": float(epoch)}, step=100 + epoch)
    print(batches)
    print(seclea.finish(timeout=60).done)
