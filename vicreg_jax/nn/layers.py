"""The layers that all networks here are made of: one batch norm, one initialisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

if TYPE_CHECKING:
    from jax.typing import DTypeLike
    from jaxtyping import Array, Float

    from vicreg_jax._types import AxisName

_Arrays = TypeVar("_Arrays", bound=tuple)


@dataclass(frozen=True)
class Layers:
    """Makes the layers of a network, alike in all that is not a layer's own.

    Parameters are float32, and so are the statistics of the batch norms and what is
    computed from them, whatever `dtype` the layers hand on.

    Attributes:
        rngs: seeds the parameters.
        dtype: that layers compute in and return, such as ``jnp.bfloat16``. None: that
            of their input, float32 at least.
        axis_name: of the mapped axis, or axes, that share batch statistics, inside
            `jax.shard_map` or `jax.pmap`. Under `jax.jit` alone leave it None: there
            the batch is the global batch already, however it is sharded.
        zero_residual: start the scale of each block's last batch norm at zero, so that
            a new block is its shortcut (Goyal et al., arXiv:1706.02677).
    """

    rngs: nnx.Rngs
    dtype: DTypeLike | None = None
    axis_name: AxisName = None
    zero_residual: bool = True

    def conv(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int = 1,
        *,
        padding: int | None = None,
    ) -> nnx.Conv:
        """Returns a convolution without bias, padded by half its kernel as default."""
        pad = size // 2 if padding is None else padding
        return nnx.Conv(
            inputs,
            outputs,
            (size, size),
            stride,
            padding=((pad, pad), (pad, pad)),
            use_bias=False,
            dtype=self.dtype,
            # Plain normal, as in PyTorch: He's own is not truncated.
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
            rngs=self.rngs,
        )

    def linear(self, inputs: int, outputs: int, *, bias: bool = True) -> nnx.Linear:
        """Returns a linear layer that starts as PyTorch's, but with biases of zero."""
        return nnx.Linear(
            inputs,
            outputs,
            use_bias=bias,
            dtype=self.dtype,
            kernel_init=nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            rngs=self.rngs,
        )

    def norm(self, features: int, *, zero: bool = False) -> nnx.BatchNorm:
        """Returns a batch norm with PyTorch's constants.

        PyTorch's momentum of 0.1 is 0.9 here. Its running variance averages unbiased
        variances, Flax's the biased ones of n values: smaller by (n - 1) / n.

        Args:
            features: channels.
            zero: start the scale at zero rather than one.
        """
        # Flax forwards several axes to `lax.pmean`, which its annotation leaves out.
        axes: dict[str, Any] = {"axis_name": self.axis_name}
        return nnx.BatchNorm(
            features,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            scale_init=nnx.initializers.zeros if zero else nnx.initializers.ones,
            # E[x^2] - E[x]^2, the fast way, cancels where means outweigh spreads. The
            # exact one moves 13% more bytes (ResNet-18, bfloat16, compiled for v5e).
            use_fast_variance=False,
            promote_dtype=_float32_at_least,
            rngs=self.rngs,
            **axes,
        )


def _float32_at_least(
    args: _Arrays, /, *, dtype: Any = None, inexact: bool = True
) -> _Arrays:
    """Casts what a batch norm computes with; its result is cast to `dtype` by Flax.

    Flax's own casts everything to `dtype` first, in bfloat16 the running statistics
    too, which then normalise with 8 bits.
    """
    target = _wide(*(a for a in args if a is not None))
    arrays: Any = tuple(a if a is None else jnp.asarray(a, target) for a in args)
    return arrays


def _wide(*arrays: jax.Array) -> DTypeLike:
    return jnp.float64 if any(a.dtype == jnp.float64 for a in arrays) else jnp.float32


def mean_of_positions(
    x: Float[Array, "batch height width features"],
) -> Float[Array, "batch features"]:
    """Returns the mean of each feature map, float32 at least."""
    return jnp.mean(x, axis=(1, 2), dtype=_wide(x))
