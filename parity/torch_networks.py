"""The networks in PyTorch, with the names that `vicreg_jax.convert` knows.

The ResNet is that of He et al. (arXiv:1512.03385) with torchvision's names and strides.
The expander is that of the paper, section 4.2. Both are written in our own words.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

DEPTHS = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    200: (True, (3, 24, 36, 3)),
}
"""Whether the blocks are bottlenecks, and the number of blocks in each stage."""


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or a bottleneck with a 3x3 in the middle.

    Args:
        inputs: Channels of the input.
        width: Channels of the 3x3 convolutions.
        stride: Stride of the first 3x3 convolution, and of the shortcut.
        bottleneck: Selects 1x1, 3x3 and 1x1 convolutions, with 4 x width outputs.
    """

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool = False):
        super().__init__()
        outputs = 4 * width if bottleneck else width
        sizes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            # As in torchvision, the 3x3 convolution has the stride. In He et al. the
            # first 1x1 has it.
            sizes = [(inputs, width, 1, 1), (width, width, 3, stride)]
            sizes += [(width, outputs, 1, 1)]
        self.depth = len(sizes)
        for i, (fan_in, fan_out, size, step) in enumerate(sizes, 1):
            self.add_module(f"conv{i}", conv(fan_in, fan_out, size, step))
            self.add_module(f"bn{i}", nn.BatchNorm2d(fan_out))
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the block's feature maps."""
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            # A ReLU has no parameters, so it needs no name in the state.
            y = torch.relu_(y) if i < self.depth else y
        return torch.relu_(y + (x if self.downsample is None else self.downsample(x)))


def conv(inputs: int, outputs: int, size: int, stride: int = 1, padding=None):
    """Returns a convolution without bias, padded by half its kernel by default."""
    padding = size // 2 if padding is None else padding
    return nn.Conv2d(inputs, outputs, size, stride, padding=padding, bias=False)


def resnet(
    depth: int,
    width: int = 64,
    *,
    channels: int = 3,
    small_images: bool = False,
    numbered: bool = False,
) -> nn.Sequential:
    """Returns a ResNet without its classifier.

    Args:
        depth: A key of `DEPTHS`.
        width: Channels of the stem.
        channels: Channels of the images.
        small_images: Selects a 3x3 stem of stride 1 without pooling, padded by 2, as in
            solo-learn.
        numbered: Names the children by number, as in lightly's examples.
    """
    bottleneck, sizes = DEPTHS[depth]
    stem, pool = conv(channels, width, 7, 2), nn.MaxPool2d(3, 2, padding=1)
    if small_images:
        stem, pool = conv(channels, width, 3, padding=2), nn.Identity()
    children: dict[str, nn.Module] = {"conv1": stem, "bn1": nn.BatchNorm2d(width)}
    children |= {"relu": nn.ReLU(inplace=True), "maxpool": pool}
    inputs = width
    for stage, blocks in enumerate(sizes):
        planes, layer = width * 2**stage, []
        for i in range(blocks):
            stride = 2 if stage and not i else 1
            layer.append(Block(inputs, planes, stride, bottleneck))
            inputs = planes * (4 if bottleneck else 1)
        children[f"layer{stage + 1}"] = nn.Sequential(*layer)
    children |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    named: Any = enumerate(children.values()) if numbered else children.items()
    return nn.Sequential(OrderedDict((str(name), child) for name, child in named))


def expander(inputs: int, width: int, biases=(True, True, False)) -> nn.Sequential:
    """Returns Linear-BN-ReLU, Linear-BN-ReLU, Linear.

    Args:
        inputs: Width of the features.
        width: Width of the hidden layers and of the embeddings.
        biases: Whether each linear layer has a bias; by default as in the official
            projector.
    """
    return nn.Sequential(
        nn.Linear(inputs, width, bias=biases[0]),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width, bias=biases[1]),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width, bias=biases[2]),
    )


def vicreg(depth: int, width: int, embedding: int) -> nn.Sequential:
    """Returns a ResNet with an expander on top, named as in the official code.

    Args:
        depth: Depth of the ResNet.
        width: Channels of its stem.
        embedding: Width of the expander.
    """
    projector = expander(features(depth, width), embedding)
    parts = {"backbone": resnet(depth, width), "projector": projector}
    return nn.Sequential(OrderedDict(parts))


def features(depth: int, width: int) -> int:
    """Returns the width of a ResNet's features."""
    bottleneck, _ = DEPTHS[depth]
    return width * 8 * (4 if bottleneck else 1)


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draws all weights and statistics, so that nothing is at its initial 0 or 1.

    Linear and convolution weights are He's normal by fan-in; the scales and the running
    variances of the batch norms are in [0.5, 1.5). All values are float32 numbers.
    """
    draw = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            # Any number will do: PyTorch uses the count only without a momentum.
            value.fill_(7)
        elif value.ndim > 1:
            fan_in = value[0].numel()
            value.copy_(torch.randn(value.shape, generator=draw) * (2 / fan_in) ** 0.5)
        elif name.endswith(("weight", "running_var")):
            value.copy_(torch.rand(value.shape, generator=draw) + 0.5)
        else:
            value.copy_(torch.randn(value.shape, generator=draw) * 0.3)
    return module


def away_from_kinks(model: nn.Module) -> nn.Module:
    """Moves the biases of the batch norms, so that no ReLU has an input near zero.

    Every other channel is on and the others are off. On this network a rounding error
    never decides on which side of its kink a ReLU is.
    """
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            on = torch.arange(norm.num_features) % 2 == 0
            with torch.no_grad():
                # The halved scales are below 0.75, so that a channel of mean 4 or -4 is
                # several standard deviations away from zero. Shortcuts and branches
                # have the same channels on, so their sums are too.
                norm.bias.add_(torch.where(on, 4.0, -4.0))
                norm.weight.mul_(0.5)
    return model
