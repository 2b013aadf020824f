"""ConvNeXt without the classifier, in Flax NNX, with timm's layout and names.

Liu et al., arXiv:2201.03545. Attributes have timm's names (stem.0, stages.0.blocks.0,
conv_dw, mlp.fc1, norm_pre), which `vicreg_jax.convert` relies on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import nnx

from vicreg_jax.nn.layers import check_images, mean_of_positions
from vicreg_jax.nn.timm_layers import Mlp, TimmLayers, drop_rates

if TYPE_CHECKING:
    from jax.typing import DTypeLike
    from jaxtyping import Array, Float

STRIDE = 32  # pixels of the images between positions of the last feature map


class ConvNeXtBlock(nnx.Module):
    """A depthwise 7x7 convolution, a layer norm and an MLP, added to the input.

    Args:
        make: Makes the layers.
        features: Channels of the input and of the output.
        layer_scale: Initial factor of the residual. None: no such factor.
        drop_path: Probability that a sample skips the residual in training.
    """

    def __init__(
        self,
        make: TimmLayers,
        features: int,
        layer_scale: float | None,
        drop_path: float,
    ):
        # All attributes have timm's names, by which `convert` finds the parameters.
        self.conv_dw = make.depthwise(features, 7)
        self.norm = make.norm(features)
        # The paper's 1x1 convolutions, which are linear layers on the last axis.
        self.mlp = Mlp(make, features)
        self.gamma = (
            None
            if layer_scale is None
            else nnx.Param(jnp.full(features, layer_scale, jnp.float32))
        )
        self.drop_path = make.drop_path(drop_path, dims=4)

    def __call__(
        self, x: Float[Array, "batch height width features"]
    ) -> Float[Array, "batch height width features"]:
        """Returns the block's feature maps."""
        residual = self.mlp(self.norm(self.conv_dw(x)))
        if self.gamma is not None:
            # A float32 factor would promote a bfloat16 residual and all that follows.
            residual = residual * self.gamma[...].astype(residual.dtype)
        return x + self.drop_path(residual)


class ConvNeXtStage(nnx.Module):
    """Blocks of one resolution, after a downsampling by 2 except in the first stage.

    Args:
        make: Makes the layers.
        inputs: Channels of the input.
        features: Channels of the output.
        layer_scale: See `ConvNeXtBlock`.
        drop_paths: Probability of each block; see `ConvNeXtBlock`.
    """

    def __init__(
        self,
        make: TimmLayers,
        inputs: int,
        features: int,
        layer_scale: float | None,
        drop_paths: Sequence[float],
    ):
        # The stem has brought the first stage to its width and resolution.
        self.downsample = (
            None
            if inputs == features
            # A norm where the resolution changes stabilizes training (section 2.6).
            else nnx.List([make.norm(inputs), make.patches(inputs, features, 2)])
        )
        self.blocks = nnx.List(
            [ConvNeXtBlock(make, features, layer_scale, rate) for rate in drop_paths]
        )

    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch rows columns features"]:
        """Returns the stage's feature maps."""
        for layer in (*(self.downsample or ()), *self.blocks):
            x = layer(x)
        return x


class ConvNeXt(nnx.Module):
    """ConvNeXt without the classifier.

    The defaults are those of VICRegL (arXiv:2210.01571): no layer scale, and the last
    layer norm is applied to each position of the feature map. timm's standard models
    have ``layer_scale=1e-6`` and ``norm_pooled=True``.

    Args:
        depths: Blocks of the four stages: (3, 3, 9, 3) for ConvNeXt-T, (3, 3, 27, 3)
            for -S and -B.
        width: Channels of the first stage, which double in each of the others: 96 for
            -T and -S, 128 for -B.
        channels: Channels of the images.
        layer_scale: Initial factor of each residual. None: no such factor.
        norm_pooled: Apply the last layer norm to the mean of all positions.
        drop_path: Probability that a sample skips the last block in training. It rises
            linearly from 0 over the blocks.
        dtype: Dtype of the computation, such as ``jnp.bfloat16``; see `TimmLayers`.
        rngs: Random number generator of the initial parameters and of drop path.

    Attributes:
        out_features: Width of the features: 768 for -T and -S, 1024 for -B.

    Raises:
        ValueError: If a depth, a width or channels is below 1, or `drop_path` is out of
            range.
    """

    def __init__(
        self,
        depths: Sequence[int] = (3, 3, 9, 3),
        *,
        width: int = 96,
        channels: int = 3,
        layer_scale: float | None = None,
        norm_pooled: bool = False,
        drop_path: float = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if len(depths) != 4 or min(depths) < 1:
            raise ValueError(f"`depths` must be 4 numbers of blocks, got {depths!r}")
        for name, value in {"width": width, "channels": channels}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        make, rates = TimmLayers(rngs, dtype), drop_rates(drop_path, sum(depths))
        self.channels = channels
        self.stem = nnx.List([make.patches(channels, width, 4), make.norm(width)])
        stages, inputs = [], width
        for at, depth in enumerate(depths):
            first, features = sum(depths[:at]), width * 2**at
            own = rates[first : first + depth]
            stages.append(ConvNeXtStage(make, inputs, features, layer_scale, own))
            inputs = features
        self.stages = nnx.List(stages)
        # timm has `norm_pre` with `head_norm_first=True`, and `head.norm` otherwise.
        self.norm_pre = None if norm_pooled else make.norm(inputs)
        # Without the layers' dtype: `mean_of_positions` returns at least float32.
        head = nnx.Dict(norm=TimmLayers(rngs).norm(inputs))
        self.head = head if norm_pooled else None
        self.out_features = inputs

    def feature_map(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns features"]:
        """Returns the last feature map of each image, in the layers' dtype.

        It is normalized unless `norm_pooled` is set.
        """
        check_images(images, self.channels)
        # The map would have no position, and the mean of no positions is NaN.
        if min(images.shape[1:3]) < STRIDE:
            raise ValueError(
                f"`images` must have at least {STRIDE} pixels a side, got "
                f"{images.shape}"
            )
        x = images
        for layer in (*self.stem, *self.stages):
            x = layer(x)
        return x if self.norm_pre is None else self.norm_pre(x)

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch features"]:
        """Returns one feature vector for each image, in at least float32.

        It is the mean over the positions of `feature_map`, normalized if `norm_pooled`
        is set.
        """
        x = mean_of_positions(self.feature_map(images))
        return x if self.head is None else self.head["norm"](x)
