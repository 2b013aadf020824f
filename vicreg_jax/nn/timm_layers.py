"""The layers that ConvNeXt and ViT share, with timm's names and initialization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
from flax import nnx

from vicreg_jax.nn.keys import keys
from vicreg_jax.nn.layers import float32_at_least

if TYPE_CHECKING:
    from jax.typing import DTypeLike
    from jaxtyping import Array, Float

# timm truncates at 100 standard deviations, that is, not at all.
NORMAL = nnx.initializers.normal(0.02)


@dataclass(frozen=True)
class TimmLayers:
    """Makes layers with biases, a normal initialization and layer norms.

    Parameters are float32, and so are the layer norms' statistics and normalization,
    whatever the `dtype` of the layers.

    Attributes:
        rngs: Random number generator of the initial parameters and of drop path.
        dtype: See `vicreg_jax.nn.layers.Layers`.
    """

    rngs: nnx.Rngs
    dtype: DTypeLike | None = None

    def linear(self, inputs: int, outputs: int) -> nnx.Linear:
        """Returns a linear layer."""
        return nnx.Linear(
            inputs, outputs, dtype=self.dtype, kernel_init=NORMAL, rngs=keys(self.rngs)
        )

    def patches(self, inputs: int, outputs: int, size: int) -> nnx.Conv:
        """Returns a linear layer of patches that do not overlap."""
        return nnx.Conv(
            inputs,
            outputs,
            (size, size),
            size,
            # As in PyTorch, pixels that do not fill a patch are left out.
            padding="VALID",
            dtype=self.dtype,
            kernel_init=NORMAL,
            rngs=keys(self.rngs),
        )

    def depthwise(self, features: int, size: int) -> nnx.Conv:
        """Returns a convolution of each channel by itself."""
        return nnx.Conv(
            features,
            features,
            (size, size),
            # Without a stride, Flax's "SAME" pads both sides alike, as PyTorch does.
            feature_group_count=features,
            dtype=self.dtype,
            kernel_init=NORMAL,
            rngs=keys(self.rngs),
        )

    def norm(self, features: int) -> nnx.LayerNorm:
        """Returns a layer norm over the last axis."""
        return nnx.LayerNorm(
            features,
            # timm's constant; PyTorch's default is 1e-5.
            epsilon=1e-6,
            dtype=self.dtype,
            # The fast variance, E[x^2] - E[x]^2, cancels if the mean is large.
            use_fast_variance=False,
            promote_dtype=float32_at_least,
            rngs=keys(self.rngs),
        )

    def drop_path(self, rate: float, dims: int) -> nnx.Dropout:
        """Returns stochastic depth: dropout of whole samples.

        Huang et al., arXiv:1603.09382, with the residuals that are kept divided by the
        probability to keep them.

        Args:
            rate: Probability that a sample is dropped. Zero needs no random numbers.
            dims: Number of axes of a batch.
        """
        return nnx.Dropout(
            rate,
            broadcast_dims=tuple(range(1, dims)),
            rngs=self.rngs if rate else None,
        )


class Mlp(nnx.Module):
    """Two linear layers with a GELU between them, four times as wide inside.

    Args:
        make: Makes the layers.
        features: Width of the input and of the output.
    """

    def __init__(self, make: TimmLayers, features: int):
        self.fc1 = make.linear(features, 4 * features)
        self.fc2 = make.linear(4 * features, features)

    def __call__(
        self, x: Float[Array, "*positions features"]
    ) -> Float[Array, "*positions features"]:
        """Returns the output of the second layer."""
        # PyTorch's GELU is the exact one, JAX's default is an approximation.
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


def drop_rates(largest: float, blocks: int) -> Sequence[float]:
    """Returns the drop path rate of each block, rising linearly from 0.

    Args:
        largest: Rate of the last block.
        blocks: Number of blocks.

    Raises:
        ValueError: If `largest` is not at least 0 and below 1.
    """
    if not 0 <= largest < 1:
        raise ValueError(f"`drop_path` must be at least 0 and below 1, got {largest}")
    return [largest * at / max(blocks - 1, 1) for at in range(blocks)]
