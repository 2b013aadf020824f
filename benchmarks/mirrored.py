"""Views without randomness, for steps that are timed or compiled quickly."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax.numpy as jnp

if TYPE_CHECKING:
    from jax import Array


@dataclasses.dataclass(frozen=True)
class MirroredViews:
    """Each image, and its mirror image as the second view.

    Two equal views would not do: the compiler would compute one of them.
    """

    size: int
    """Height and width of the images in pixels."""

    def pair(self, key: Array, images: Array, aspect: Array) -> tuple[Array, Array]:
        """See `vicreg_jax.augment.Views`."""
        del key
        plain = self.plain(images, aspect)
        return plain, jnp.flip(plain, axis=2)

    def plain(self, images: Array, aspect: Array) -> Array:
        """See `vicreg_jax.augment.Views`."""
        del aspect
        return images.astype(jnp.float32) / 255
