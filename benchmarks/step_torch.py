"""The training step in PyTorch: the same networks, the reference loss, AdamW.

Channels are last in memory, as in JAX: PyTorch's convolutions on CPUs are fastest so.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from benchmarks.timing import Call
from benchmarks.torch_side import reference
from parity import torch_networks
from parity.training_torch import adamw
from vicreg_jax.pretrain.config import Config


def network(config: Config) -> nn.Sequential:
    """Returns encoder and expander, as wide as those of `config`.

    Raises:
        ValueError: `config.encoder` is not written here.
    """
    if config.encoder == "small":
        encoder, features = _small(config), 4 * config.width
    elif config.encoder.startswith("resnet"):
        depth = int(config.encoder.removeprefix("resnet"))
        encoder = torch_networks.resnet(
            depth,
            config.width,
            channels=config.channels,
            small_images=config.small_images,
        )
        features = torch_networks.features(depth, config.width)
    else:
        raise ValueError(f"`encoder` must be small or a ResNet, got {config.encoder}")
    return nn.Sequential(encoder, torch_networks.expander(features, config.expander))


def _small(config: Config) -> nn.Sequential:
    """Returns the encoder that `vicreg_jax.nn.SmallResNet` is."""
    widths = [config.width, 2 * config.width, 4 * config.width]
    return nn.Sequential(
        torch_networks.conv(config.channels, widths[0], 3, 2),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(inplace=True),
        *(torch_networks.Block(*sizes, stride=2) for sizes in pairwise(widths)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def mean_of_squares(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    """Stands in for the loss, to measure the rest of a step."""
    return (z1.square() + z2.square()).mean()


def build(config: Config, *, loss: Callable = reference) -> Call:
    """Returns a call that takes one step, on views that are drawn already.

    Args:
        config: Configuration of the network.
        loss: Function of two batches of embeddings.
    """
    torch.manual_seed(0)
    model = network(config)
    for p in model.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
    # The schedule is left out: it costs nothing that can be measured.
    optimizer = adamw(list(model.parameters()), lr=1e-3)
    shape = 2, config.batch, config.size, config.size, config.channels
    views = np.random.default_rng(0).random(shape, np.float32)
    # In memory the channels stay last.
    images = [torch.from_numpy(view).permute(0, 3, 1, 2) for view in views]

    def call():
        optimizer.zero_grad()
        # Two passes: batch norm takes the statistics of each view by itself.
        value = loss(*(model(view) for view in images))
        value.backward()
        optimizer.step()

    return call
