"""The training step in PyTorch: the same networks, the reference loss, AdamW.

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
    """Two 3x3 convolutions, beside a 1x1 shortcut where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            _conv(inputs, outputs, stride=stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            _conv(outputs, outputs),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = (
            nn.Identity()
            if (inputs, stride) == (outputs, 1)
            else nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the block's feature maps."""
        return torch.relu(self.residual(x) + self.shortcut(x))


def _conv(inputs: int, outputs: int, *, stride: int = 1, padding: int = 1):
    return nn.Conv2d(inputs, outputs, 3, stride, padding=padding, bias=False)


def network(config: Config) -> nn.Sequential:
    """Returns encoder and expander, as wide as those of `config`.

    Raises:
        ValueError: there is no such encoder here.
    """
    if config.encoder == "small":
        widths = [config.width, 2 * config.width, 4 * config.width]
        stem = _conv(config.channels, widths[0], stride=2)
        blocks = [Block(inputs, outputs, 2) for inputs, outputs in pairwise(widths)]
    elif config.encoder == "resnet18" and config.small_images:
        widths = [config.width * 2**at for at in (0, 0, 1, 2, 3)]
        stem = _conv(config.channels, widths[0], padding=2)  # as solo-learn pads it
        blocks = []
        for stage, (inputs, outputs) in enumerate(pairwise(widths)):
            stride = 2 if stage else 1
            blocks += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
    else:
        raise ValueError(f"`encoder` must be small or resnet18, got {config.encoder}")
    width = config.expander
    return nn.Sequential(
        stem,
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(inplace=True),
        *blocks,
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


def build(config: Config, *, loss: Callable = reference) -> Call:
    """Returns a step on views that are drawn already, as a call.

    Args:
        config: network and optimizer.
        loss: of two batches of embeddings.
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
    shape = 2, config.batch, config.size, config.size, config.channels
    views = np.random.default_rng(0).random(shape, np.float32)
    # Channels last in memory, as they lie there.
    images = [torch.from_numpy(view).permute(0, 3, 1, 2) for view in views]

    def call():
        optimizer.zero_grad()
        # Two passes, so that batch norm sees each view by itself.
        value = loss(*(model(view) for view in images))
        value.backward()
        optimizer.step()

    return call
