"""The networks of a VICReg run, in Flax NNX: an encoder and an expander."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

if TYPE_CHECKING:
    from jaxtyping import Array, Float

_Convolution = partial(nnx.Conv, kernel_size=(3, 3), padding="SAME", use_bias=False)


class Block(nnx.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., arXiv:1512.03385).

    The last batch norm's scale starts at zero, so that a new block is its shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        self.conv1 = _Convolution(inputs, outputs, strides=stride, rngs=rngs)
        self.norm1 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        self.conv2 = _Convolution(outputs, outputs, rngs=rngs)
        self.norm2 = nnx.BatchNorm(
            outputs, momentum=0.9, scale_init=nnx.initializers.zeros, rngs=rngs
        )
        self.shortcut = (
            nnx.Sequential(
                nnx.Conv(inputs, outputs, (1, 1), stride, use_bias=False, rngs=rngs),
                nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs),
            )
            if (inputs, stride) != (outputs, 1)
            else None
        )

    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch rows columns outputs"]:
        """Returns the block's feature maps."""
        y = self.norm2(self.conv2(jax.nn.relu(self.norm1(self.conv1(x)))))
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class SmallResNet(nnx.Module):
    """A residual encoder for images of a few dozen pixels a side.

    A 3x3 stem, stages of blocks, each at half the resolution of what came before, then
    the mean over all positions.

    Args:
        widths: channels of the stem and of each stage; the last is the features' width.
        blocks: blocks in each stage.
        stem_stride: 2 halves the resolution at once, 1 keeps it.
        channels: of the images.
        rngs: seeds the parameters.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128),
        *,
        blocks: int = 1,
        stem_stride: int = 2,
        channels: int = 1,
        rngs: nnx.Rngs,
    ):
        self.stem = _Convolution(channels, widths[0], strides=stem_stride, rngs=rngs)
        self.norm = nnx.BatchNorm(widths[0], momentum=0.9, rngs=rngs)
        stages = []
        for inputs, outputs in pairwise(widths):
            stages.append(Block(inputs, outputs, 2, rngs=rngs))
            for _ in range(blocks - 1):
                stages.append(Block(outputs, outputs, 1, rngs=rngs))
        self.blocks = nnx.List(stages)

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch features"]:
        """Returns one feature vector an image."""
        x = jax.nn.relu(self.norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        return jnp.mean(x, axis=(1, 2))


class Expander(nnx.Module):
    """Linear-BN-ReLU, Linear-BN-ReLU, Linear without bias (the paper, section 4.2).

    Args:
        inputs: width of the features.
        width: of both hidden layers and of the embeddings.
        rngs: seeds the parameters.
    """

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs):
        self.linear1 = nnx.Linear(inputs, width, rngs=rngs)
        self.norm1 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.linear2 = nnx.Linear(width, width, rngs=rngs)
        self.norm2 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.linear3 = nnx.Linear(width, width, use_bias=False, rngs=rngs)

    def __call__(
        self, features: Float[Array, "batch features"]
    ) -> Float[Array, "batch dim"]:
        """Returns the embeddings that the loss sees."""
        x = jax.nn.relu(self.norm1(self.linear1(features)))
        return self.linear3(jax.nn.relu(self.norm2(self.linear2(x))))


class VICReg(nnx.Module):
    """Encoder and expander: images in, embeddings out.

    The expander serves the loss alone; what is kept after pretraining is the encoder.
    """

    def __init__(self, encoder: nnx.Module, expander: nnx.Module):
        self.encoder = encoder
        self.expander = expander

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch dim"]:
        """Returns one embedding an image."""
        return self.expander(self.encoder(images))
