"""The training step of the mnist recipe in PyTorch: the same network, loss and AdamW.

Channels last, as PyTorch runs convolutions on a CPU fastest and as JAX has them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from benchmarks.timing import Call
from benchmarks.torch_side import reference
from vicreg_jax.pretrain.config import Config


class Block(nn.Module):
    """Two 3x3 convolutions at half the resolution, beside a 1x1 shortcut."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the block's feature maps."""
        return torch.relu(self.residual(x) + self.shortcut(x))


def network(config: Config) -> nn.Sequential:
    """Returns encoder and expander, as wide as the recipe's."""
    widths = [config.width, 2 * config.width, 4 * config.width]
    width = config.expander
    return nn.Sequential(
        nn.Conv2d(1, widths[0], 3, 2, padding=1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(inplace=True),
        *(Block(inputs, outputs) for inputs, outputs in pairwise(widths)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(widths[-1], width),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width, bias=False),
    )


def mean_of_squares(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    """What stands in for the loss, to see what the rest of a step takes."""
    return (z1.square() + z2.square()).mean()


LOSSES: dict[str, Callable] = {"loss": reference, "mean of squares": mean_of_squares}


def build(config: Config, views: tuple[np.ndarray, np.ndarray], loss: str) -> Call:
    """Returns a step, as a call.

    Args:
        config: network and optimiser.
        views: two batches of images, channels last.
        loss: a key of `LOSSES`.
    """
    torch.manual_seed(0)
    model = network(config)
    for p in model.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=1e-3,  # whatever: a schedule costs nothing that can be measured
    )
    images = [torch.from_numpy(view).permute(0, 3, 1, 2) for view in views]

    def call():
        optimizer.zero_grad()
        # Two passes, so that batch norm sees each view by itself.
        value = LOSSES[loss](*(model(view) for view in images))
        value.backward()
        optimizer.step()

    return call
