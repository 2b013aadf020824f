"""One process of a PyTorch DDP run: `python -m parity.ddp_process RANK WORLD DIR`.

It reads the run from `setup.npz` in that directory, meets the other processes through a
file there, and trains. Rank 0 writes `parameters.npz`. It does not import JAX.
"""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from parity.torch_reference import torch_terms, weighted_sum
from parity.training_torch import MOMENTUM


class Gather(torch.autograd.Function):
    """Gathers the rows of all processes. The gradient is summed over the processes.

    `torch.distributed.all_gather` has no gradient. Each process computes the loss of
    the whole batch, so the summed gradient is too large by the number of processes.
    DDP's mean over the processes takes that factor out again.
    """

    @staticmethod
    def forward(ctx, z):
        """Returns the rows in the order of the ranks."""
        parts = [torch.empty_like(z) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, z)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, *gradients):
        """Returns the summed gradient of the rows of this process."""
        # A copy: the sum is in place, and autograd may need its own buffer again.
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(summed)
        return summed.chunk(distributed.get_world_size())[distributed.get_rank()]


def perceptron(inputs: int, width: int) -> torch.nn.Sequential:
    """Returns Linear, ReLU, Linear, in float64."""
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, width),
    ).double()


def train(setup: dict[str, np.ndarray], rank: int, world: int) -> torch.nn.Module:
    """Trains on this process's share of each batch and returns the network."""
    # Parameters are named by layer number. The rest is `batches` and `rates`.
    weights = {name: torch.tensor(setup[name]) for name in setup if name[0].isdigit()}
    width, inputs = weights["0.weight"].shape
    network = perceptron(inputs, width)
    network.load_state_dict(weights)
    parallel = torch.nn.parallel.DistributedDataParallel(network)
    steps = torch.optim.SGD(parallel.parameters(), lr=1.0, momentum=MOMENTUM)
    for batch, rate in zip(setup["batches"], setup["rates"], strict=True):
        steps.param_groups[0]["lr"] = float(rate)
        views = torch.tensor(batch).chunk(world, dim=1)[rank]
        # Both views in one call: DDP allows only one before each backward.
        own = parallel(views.flatten(0, 1)).chunk(2)
        steps.zero_grad()
        z1, z2 = (Gather.apply(z) for z in own)
        weighted_sum(torch_terms(z1, z2)).backward()
        steps.step()
    return network


def save(path: Path, arrays: dict[str, Any]) -> None:
    """Writes named arrays."""
    np.savez(path, **arrays)


def main(rank: int, world: int, directory: Path) -> None:
    """Trains as one of `world` processes."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{directory / 'meeting'}",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=60),
    )
    with np.load(directory / "setup.npz") as setup:
        network = train(dict(setup), rank, world)
    if rank == 0:
        found = {k: v.detach().numpy() for k, v in network.named_parameters()}
        save(directory / "parameters.npz", found)
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    sys.stdout.flush()
    # Gloo's threads sometimes abort the process during Python's usual shutdown
    # ("terminate called without an active exception").
    os._exit(0)
