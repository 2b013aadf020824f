"""What a batch of images must be, and its rows beside them on the devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def prepared(
    images: Array, aspect: Float[Array, " batch"] | None
) -> tuple[Float[Array, "batch height width channels"], Float[Array, " batch"]]:
    """Returns float images and the aspect of each, or says why not."""
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            "`images` must have shape (batch, height, width, channels), 1 or 3 "
            f"channels, got {images.shape}"
        )
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255
    elif not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"`images` must be uint8 or float, got {images.dtype}")
    if aspect is None:
        aspect = jnp.full(len(images), images.shape[2] / images.shape[1])
    images = images.astype(jnp.float32)
    return images, beside(images, aspect.astype(jnp.float32))


def beside(images: Array, rows: Array) -> Array:
    """Returns `rows` on the devices of their images, which explicit meshes ask for."""
    sharding = jax.typeof(images).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return rows
    by_image = NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0]))
    return jax.sharding.reshard(rows, by_image)
