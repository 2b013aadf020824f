"""A small ResNet-18 in PyTorch, with torchvision's names and without the classifier.

It stands in for your encoder, so that from_pytorch.py needs torch alone.
"""

from collections import OrderedDict

import torch
from torch import nn


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., arXiv:1512.03385)."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the block's feature maps."""
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


def resnet18(width: int) -> nn.Sequential:
    """Returns the network; torchvision's has a `width` of 64 channels in the stem."""
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(3, width, 7, 2, 3, bias=False),
        bn1=nn.BatchNorm2d(width),
        relu=nn.ReLU(),
        maxpool=nn.MaxPool2d(3, 2, 1),
    )
    inputs = width
    for stage in range(4):
        outputs = width * 2**stage
        first = Block(inputs, outputs, 1 if stage == 0 else 2)
        second = Block(outputs, outputs, 1)
        layers[f"layer{stage + 1}"] = nn.Sequential(first, second)
        inputs = outputs
    return nn.Sequential(
        layers | {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    )
