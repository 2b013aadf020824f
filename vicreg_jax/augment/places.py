"""Where views lie in their images, which VICRegL's local loss compares."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

    from vicreg_jax.augment._batch import Aspect


class Place(NamedTuple):
    """Where one view of each image lies in the original image.

    All fields have shape ``(batch,)``.

    Attributes:
        top: Distance of the view from the top, in heights of the image, float32.
        left: Distance of the view from the left, in widths of the image, float32.
        height: Height of the view, in heights of the image, float32.
        width: Width of the view, in widths of the image, float32.
        aspect: Width over height of the original image, float32.
        flipped: Whether the view is mirrored left to right, bool.
    """

    top: Aspect
    left: Aspect
    height: Aspect
    width: Aspect
    aspect: Aspect
    flipped: Bool[Array, " batch"]

    def cells(self, rows: int, columns: int) -> Float[Array, "batch rows columns 2"]:
        """Returns the centers of the cells of a feature map, in the original image.

        Args:
            rows: Height of the map.
            columns: Width of the map.

        Returns:
            The distances from the top and from the left, both in units of the original
            image's height, float32.

        Example:
            >>> import jax.numpy as jnp
            >>> from vicreg_jax.augment import Place
            >>> right_half = jnp.array([[0.0], [0.5], [1.0], [0.5], [2.0]])
            >>> place = Place(*right_half, flipped=jnp.array([False]))
            >>> place.cells(1, 2).tolist()
            [[[[0.5, 1.25], [0.5, 1.75]]]]
        """
        # The centers of equal cells. lightly 1.6.0 spaces them by 1 / (rows - 1), which
        # puts the last ones outside of the crop.
        down = (jnp.arange(rows, dtype=jnp.float32) + 0.5) / rows
        across = (jnp.arange(columns, dtype=jnp.float32) + 0.5) / columns
        across = jnp.where(self.flipped[:, None], across[::-1], across)
        y = self.top[:, None] + self.height[:, None] * down
        x = self.left[:, None] + self.width[:, None] * across
        # In units of the height, as y is, so that distances across and down compare.
        x = self.aspect[:, None] * x
        shape = (len(x), rows, columns)
        y = jnp.broadcast_to(y[:, :, None], shape)
        return jnp.stack([y, jnp.broadcast_to(x[:, None, :], shape)], axis=-1)
