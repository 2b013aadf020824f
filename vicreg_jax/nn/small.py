"""An encoder for images of a few dozen pixels a side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import jax
from flax import nnx

from vicreg_jax.nn.layers import Layers, check_images, mean_of_positions
from vicreg_jax.nn.resnet import BasicBlock

if TYPE_CHECKING:
    from jax.typing import DTypeLike
    from jaxtyping import Array, Float

    from vicreg_jax._types import AxisName


class SmallResNet(nnx.Module):
    """A residual encoder for images of a few dozen pixels a side.

    It has a 3x3 stem, stages of residual blocks that each halve the resolution, and a
    mean over all positions.

    Args:
        widths: Channels of the stem and of each stage. The last is the width of the
            features.
        blocks: Number of blocks in each stage.
        stem_stride: 2 halves the resolution in the stem, 1 keeps it.
        channels: Channels of the images.
        dtype: Dtype of the computation, such as ``jnp.bfloat16``; see `Layers`.
        axis_name: The mapped axis of the devices that share batch statistics; see
            `Layers`.
        rngs: Random number generator of the initial parameters.

    Attributes:
        out_features: Width of the features.

    Raises:
        ValueError: If `blocks` is below 1.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128),
        *,
        blocks: int = 1,
        stem_stride: int = 2,
        channels: int = 1,
        dtype: DTypeLike | None = None,
        axis_name: AxisName = None,
        rngs: nnx.Rngs,
    ):
        # Each stage has one in any case, which halves the resolution.
        if blocks < 1:
            raise ValueError(f"`blocks` must be at least 1, got {blocks}")
        make = Layers(rngs, dtype, axis_name)
        self.channels = channels
        self.conv1 = make.conv(channels, widths[0], 3, stem_stride)
        self.bn1 = make.norm(widths[0])
        stages = []
        for inputs, outputs in pairwise(widths):
            stages.append(BasicBlock(make, inputs, outputs, 2))
            for _ in range(blocks - 1):
                stages.append(BasicBlock(make, outputs, outputs, 1))
        self.blocks = nnx.List(stages)
        self.out_features = widths[-1]

    def feature_map(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns features"]:
        """Returns the last feature map of each image, in the layers' dtype."""
        check_images(images, self.channels)
        x = jax.nn.relu(self.bn1(self.conv1(images)))
        for block in self.blocks:
            x = block(x)
        return x

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch features"]:
        """Returns one feature vector for each image, in at least float32.

        It is the mean over the positions of `feature_map`.
        """
        return mean_of_positions(self.feature_map(images))
