"""The layers of ResNets and the expander, and what all networks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer

from vicreg_jax.nn.keys import keys
from vicreg_jax.nn.small_maps import convolve

if TYPE_CHECKING:
    from jax.typing import DTypeLike
    from jaxtyping import Array, Float

    from vicreg_jax._types import AxisName

_Arrays = TypeVar("_Arrays", bound=tuple)


@dataclass(frozen=True)
class Layers:
    """Makes the layers of a network with shared settings.

    Parameters and batch-norm statistics are float32, and so is the normalization,
    whatever the `dtype` of the layers.

    Attributes:
        rngs: Random number generator of the initial parameters.
        dtype: Dtype that layers compute in and return, such as ``jnp.bfloat16``. None:
            the dtype of their input, at least float32.
        axis_name: The mapped axis or axes of `jax.shard_map` or `jax.pmap` that share
            batch statistics. Leave it None under `jax.jit` alone: the batch is then
            already the global batch, however it is sharded.
        zero_residual: Initialize the scale of each block's last batch norm to zero, so
            that a block starts as its shortcut (Goyal et al., arXiv:1706.02677).
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
        """Returns a convolution without bias, padded by half its kernel by default."""
        pad = size // 2 if padding is None else padding
        return nnx.Conv(
            inputs,
            outputs,
            (size, size),
            stride,
            padding=((pad, pad), (pad, pad)),
            use_bias=False,
            dtype=self.dtype,
            # "normal" as in PyTorch, not "truncated_normal", which is Flax's default.
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
            conv_general_dilated=convolve,
            rngs=keys(self.rngs),
        )

    def linear(self, inputs: int, outputs: int, *, bias: bool = True) -> nnx.Linear:
        """Returns a linear layer initialized as in PyTorch, but with zero biases."""
        return nnx.Linear(
            inputs,
            outputs,
            use_bias=bias,
            dtype=self.dtype,
            # PyTorch's range is -b to b with b = 1 / sqrt(fan_in). Such a uniform
            # variable has the variance b^2 / 3.
            kernel_init=nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            rngs=keys(self.rngs),
        )

    def norm(self, features: int, *, zero: bool = False) -> nnx.BatchNorm:
        """Returns a batch norm with PyTorch's constants.

        PyTorch's momentum of 0.1 is 0.9 in Flax. PyTorch's running variance averages
        unbiased variances, Flax's averages biased ones, which are smaller by a factor
        of (n - 1) / n for n values.

        Args:
            features: Number of channels.
            zero: Initialize the scale to zero instead of one.
        """
        # Flax accepts several axes here, although its annotation says one.
        axes: dict[str, Any] = {"axis_name": self.axis_name}
        norm = nnx.BatchNorm(
            features,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            scale_init=nnx.initializers.zeros if zero else nnx.initializers.ones,
            # The fast variance, E[x^2] - E[x]^2, cancels if the mean is large. The
            # exact one moves 13% more bytes (ResNet-18, bfloat16, compiled for v5e).
            use_fast_variance=False,
            promote_dtype=float32_at_least,
            rngs=keys(self.rngs),
            **axes,
        )
        norm.mean = RunningStatistic(norm.mean[...])
        norm.var = RunningStatistic(norm.var[...])
        return norm


class RunningStatistic(nnx.BatchStat):
    """A running mean or variance that is set quickly while JAX traces.

    Flax 0.12 compares the shardings of the old and the new value. Traced values have
    none, and JAX 0.10 then writes an error that lists where they come from. Without
    this class, that is more than half of the time of tracing a ResNet-50's step.
    """

    def __setitem__(self, key: Any, value: Any) -> None:
        """Sets the value, or a part of it."""
        old = self.get_value()
        traced = isinstance(old, Tracer) and isinstance(value, Tracer)
        alike = (old.shape, old.dtype) == (value.shape, value.dtype)
        if key is Ellipsis and traced and alike:
            self.set_value(value)  # as Flax would, too
        else:
            super().__setitem__(key, value)


def float32_at_least(
    args: _Arrays, /, *, dtype: Any = None, inexact: bool = True
) -> _Arrays:
    """Promotes the arrays of a batch norm or a layer norm to at least float32.

    Flax's default casts all of them to `dtype` first, including the running statistics,
    which in bfloat16 keep 8 bits. Flax casts the result to `dtype` in both cases.
    """
    target = wide_dtype(*(a for a in args if a is not None))
    arrays: Any = tuple(a if a is None else jnp.asarray(a, target) for a in args)
    return arrays


def wide_dtype(*arrays: jax.Array) -> DTypeLike:
    """Returns float64 if one of the arrays has it, otherwise float32."""
    return jnp.float64 if any(a.dtype == jnp.float64 for a in arrays) else jnp.float32


def mean_of_positions(
    x: Float[Array, "batch height width features"],
) -> Float[Array, "batch features"]:
    """Returns the mean of each feature map, in at least float32."""
    return jnp.mean(x, axis=(1, 2), dtype=wide_dtype(x))


def check_images(images: jax.Array, channels: int, *, side: int | None = None) -> None:
    """Raises a ValueError unless images have the shape that a network takes.

    Args:
        images: The images.
        channels: Their channels.
        side: Their height and width. None: any.
    """
    sides = ("height", "width") if side is None else (side, side)
    fits = images.ndim == 4 and images.shape[-1] == channels
    if not fits or (side is not None and images.shape[1:3] != sides):
        raise ValueError(
            f"`images` must have shape (batch, {sides[0]}, {sides[1]}, {channels}), "
            f"got {images.shape}"
        )
