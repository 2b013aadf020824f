"""Checks of the arguments that all views share, and the sharding of their rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

if TYPE_CHECKING:
    from jaxtyping import Array, Float, UInt8

    Images = (
        UInt8[Array, "batch height width channels"]
        | Float[Array, "batch height width channels"]
    )
    Aspect = Float[Array, " batch"]
    View = Float[Array, "batch size size channels"]


def prepare(
    images: Array, aspect: Array | None
) -> tuple[Float[Array, "batch height width channels"], Aspect]:
    """Returns images as float32 in [0, 1], and the aspect ratio of each.

    Args:
        images: uint8 in [0, 255], or float in [0, 1].
        aspect: Width over height of each original image. None: that of `images`.

    Raises:
        ValueError: If a shape is wrong.
        TypeError: If `images` is neither uint8 nor float.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            "`images` must have shape (batch, height, width, channels) with 1 or 3 "
            f"channels, got {images.shape}"
        )
    if images.dtype == jnp.uint8:
        # On the device, so that the host sends a quarter of the bytes of float32.
        images = images.astype(jnp.float32) / 255
    elif not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"`images` must be uint8 or float, got {images.dtype}")
    if aspect is None:
        aspect = jnp.full(len(images), images.shape[2] / images.shape[1])
    if aspect.shape != images.shape[:1]:
        raise ValueError(
            f"`aspect` must have one value for each of the {len(images)} images, "
            f"got shape {aspect.shape}"
        )
    images = images.astype(jnp.float32)
    return images, shard_like(images, aspect.astype(jnp.float32))


def shard_like(images: Array, rows: Array) -> Array:
    """Returns `rows`, one for each image, with the sharding of the images.

    Explicit meshes refuse a `jax.vmap` over arrays whose rows are sharded differently.
    On other meshes the compiler chooses the sharding, and nothing is done here.
    """
    sharding = jax.typeof(images).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return rows
    by_image = NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0]))
    return jax.sharding.reshard(rows, by_image)
