"""ConvNeXt and ViT in PyTorch, with timm's names, and timm itself where it is."""

import importlib.util
import sys
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn import functional

# What timm imports of torchvision, and its encoders do not use.
_UNUSED = ("", "datasets", "models", "models.feature_extraction", "ops", "ops.misc")
_UNUSED += ("transforms", "transforms.functional", "utils")


def timm():
    """Returns timm, also where there is no torchvision that suits PyTorch."""
    if "timm" in sys.modules or importlib.util.find_spec("timm") is None:
        return pytest.importorskip("timm")
    names = [".".join(filter(None, ("torchvision", name))) for name in _UNUSED]
    missing = [name for name in names if name not in sys.modules]
    sys.modules.update({name: mock.MagicMock() for name in missing})
    try:
        return importlib.import_module("timm")
    finally:
        for name in missing:
            del sys.modules[name]


def named(**children):
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


def layer_norm(features):
    return nn.LayerNorm(features, eps=1e-6)


def over_channels(norm, x):
    return norm(x.movedim(1, -1)).movedim(-1, 1)


def mlp(features):
    inside = 4 * features
    return named(fc1=nn.Linear(features, inside), fc2=nn.Linear(inside, features))


def through(layers, x):
    return layers.fc2(functional.gelu(layers.fc1(x)))


class ConvNeXt(nn.Module):
    """The defaults are VICRegL's: no layer scale, and a norm of each position."""

    def __init__(self, depths, width, *, layer_scale=False, norm_pooled=False):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 4, 4), layer_norm(width))
        self.stages, inputs = nn.ModuleList(), width
        for at, depth in enumerate(depths):
            features = width * 2**at
            blocks = [self.block(features, layer_scale) for _ in range(depth)]
            stage = named(blocks=nn.ModuleList(blocks))
            if at:
                halve = nn.Conv2d(inputs, features, 2, 2)
                stage.downsample = nn.Sequential(layer_norm(inputs), halve)
            self.stages.append(stage)
            inputs = features
        if norm_pooled:
            self.head = named(norm=layer_norm(inputs))
        else:
            self.norm_pre = layer_norm(inputs)

    def block(self, features, layer_scale):
        made = named(
            conv_dw=nn.Conv2d(features, features, 7, padding=3, groups=features),
            norm=layer_norm(features),
            mlp=mlp(features),
        )
        made.gamma = nn.Parameter(torch.ones(features)) if layer_scale else None
        return made

    def forward(self, x):
        x = over_channels(self.stem[1], self.stem[0](x))
        for stage in self.stages:
            if hasattr(stage, "downsample"):
                norm, halve = stage.downsample
                x = halve(over_channels(norm, x))
            for block in stage.blocks:
                y = through(block.mlp, block.norm(block.conv_dw(x).movedim(1, -1)))
                y = y if block.gamma is None else y * block.gamma
                x = x + y.movedim(-1, 1)
        if hasattr(self, "head"):
            return self.head.norm(x.mean((2, 3)))
        return over_channels(self.norm_pre, x).mean((2, 3))


class ViT(nn.Module):
    def __init__(self, image_size, patch_size, width, depth, heads):
        super().__init__()
        self.heads = heads
        positions = (image_size // patch_size) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + positions, width))
        self.patch_embed = named(proj=nn.Conv2d(3, width, patch_size, patch_size))
        self.blocks = nn.ModuleList(self.block(width) for _ in range(depth))
        self.norm = layer_norm(width)

    def block(self, width):
        attn = named(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width))
        norms = dict(norm1=layer_norm(width), norm2=layer_norm(width))
        return named(attn=attn, mlp=mlp(width), **norms)

    def attention(self, attn, x):
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in attn.qkv(x).chunk(3, dim=-1)
        )
        logits = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        mixed = logits.softmax(-1) @ v
        return attn.proj(mixed.transpose(1, 2).flatten(2))

    def forward(self, x):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = x + self.attention(block.attn, block.norm1(x))
            x = x + through(block.mlp, block.norm2(x))
        return self.norm(x)[:, 0]
