"""VICRegL (arXiv:2210.01571): VICReg on whole images and on the positions of maps.

The local loss compares two feature maps position by position. Each position of one map
is matched with the nearest position of the other, once by feature and once by location
in the original image, and the best matches are compared by VICReg's three terms. The
statistics are those of one slot, the k-th match of every image, over the whole batch.

A pair of views ``(x, y)`` has a loss by feature and one by location, which are summed.
Each is the mean of its two directions, x to y and y to x. The local loss is the mean
over ordered pairs of views whose first view is one of the first ``global_views``.

Ties: of equally near positions the first in raster order is taken, and of equally
distant matches the one whose position comes first. Distances are computed from
differences, never from products, so that equal positions tie on every device.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import jax

from vicreg_jax import _check, _check_maps
from vicreg_jax._local import both_loss, both_terms, map_loss
from vicreg_jax._matching import Matches, Matching, SlotOrder
from vicreg_jax._terms import VICRegTerms

if TYPE_CHECKING:
    from jax.lax import PrecisionLike
    from jaxtyping import Array, Float

    from vicreg_jax._types import (
        AxisName,
        Map,
        MapPositions,
        Maps,
        Positions,
        RowMask,
        Scalar,
        Views,
    )

__all__ = ["VICRegLLoss", "VICRegLTerms", "local_loss", "vicregl_loss"]


class VICRegLTerms(NamedTuple):
    """The unweighted terms of `VICRegLLoss`.

    Attributes:
        of_views: The terms of the global embeddings, as in `multiview_terms`.
        of_maps: The terms of the feature maps: means over the matches, of which
            variance and covariance are summed over the two sides of a match.
    """

    of_views: VICRegTerms
    of_maps: VICRegTerms


def local_loss(
    maps1: Map,
    maps2: Map,
    positions1: Positions,
    positions2: Positions,
    lambd: Scalar = 25.0,
    mu: Scalar = 12.5,
    nu: Scalar = 0.5,
    gamma: Scalar = 1.0,
    *,
    feature_matches: Matches = None,
    location_matches: Matches = (20, 4),
    slot_order: SlotOrder = "raster",
    axis_name: AxisName = None,
    where: RowMask | None = None,
    eps: Scalar = 1e-4,
    precision: PrecisionLike = "highest",
) -> Float[Array, ""]:
    """VICRegL's local loss of two views.

    The mean over matches of ``lambd * s(u, w) + mu * (v(u) + v(w)) + nu * (c(u) +
    c(w))``, with the terms of `invariance`, `variance` and `covariance`, where ``u``
    are the matched positions of one view and ``w`` what they are matched with. The
    default weights are VICRegL's "25, 25, 1", which averages over the two sides.

    The choice of matches is not differentiated; gradients flow into both sides. Where
    all positions of a map are kept in raster order, their variance and covariance are
    computed once a view.

    Args:
        maps1: Feature map of one view, shape ``(batch, height, width, channels)``,
            float16, bfloat16, float32 or float64; the local projector's output.
        maps2: Feature map of the other view, with the same batch and channels, image i
            of both from the same sample. Height and width may differ.
        positions1: Where each position of ``maps1`` lies in the original image, shape
            ``(batch, height, width, 2)``, in any unit that both views share.
        positions2: The same for ``maps2``.
        lambd: Weight of the invariance term.
        mu: Weight of the variance term.
        nu: Weight of the covariance term.
        gamma: The standard deviation that every channel of a slot should reach.
        feature_matches: How many matches by feature to keep, of the first and of the
            second view of a pair. Both orders of each pair count. None: all positions.
        location_matches: The same for matches by location.
        slot_order: The order of an image's matches, which decides what is in one slot:
            "raster", the order of their positions, or "distance", nearest first.
        axis_name: The mapped axis, or axes, that images are spread over. None under
            `jax.jit`, however the arrays are sharded.
        where: Images that count, shape ``(batch,)``, dtype bool. None: all of them.
        eps: Added to the variance.
        precision: Precision of the matrix products of the covariances.

    Returns:
        A scalar, float32, or float64 if a map is float64.

    Raises:
        ValueError: If a shape is wrong, a number of matches is larger than the map, an
            option is unknown, ``gamma`` or ``eps`` is a negative number, or
            ``axis_name`` is not bound.
        TypeError: If a dtype is wrong.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from vicreg_jax.local import local_loss
        >>> maps1, maps2 = jax.random.normal(jax.random.key(0), (2, 8, 5, 5, 16))
        >>> cells = jnp.stack(jnp.indices((5, 5), dtype=jnp.float32), axis=-1)
        >>> positions = jnp.broadcast_to(cells, (8, 5, 5, 2))
        >>> print(f"{local_loss(maps1, maps2, positions, positions + 0.5):.1f}")
        87.9

    Reference:
        Bardes et al., VICRegL, https://arxiv.org/abs/2210.01571, equations 2 to 5.
    """
    axes = _check.axes(axis_name)
    names = (("maps1", "maps2"), ("positions1", "positions2"))
    maps = _check_maps.maps(names[0], (maps1, maps2), axes)
    positions = _check_maps.positions(names[1], (positions1, positions2), maps)
    # With two global views the pair counts in both orders: each view has both limits.
    matching = Matching(feature_matches, location_matches, slot_order, False, 2)
    return map_loss(
        maps,
        positions,
        _check.not_negative("gamma", gamma),
        _check.row_mask(where, maps[0].shape[0]),
        _check.not_negative("eps", eps),
        _weights(lambd, mu, nu),
        matching=_check_maps.matching(matching, names[0], maps),
        axes=axes,
        precision=precision,
    )


def vicregl_loss(
    global_embeddings: Views,
    maps: Maps,
    positions: MapPositions,
    alpha: Scalar = 0.75,
    *,
    lambd: Scalar = 25.0,
    mu: Scalar = 12.5,
    nu: Scalar = 0.5,
    gamma: Scalar = 1.0,
    global_views: int = 2,
    feature_matches: Matches = None,
    location_matches: Matches = (20, 4),
    slot_order: SlotOrder = "raster",
    clamp_matches: bool = False,
    axis_name: AxisName = None,
    where: RowMask | None = None,
    eps: Scalar = 1e-4,
    precision: PrecisionLike = "highest",
) -> Float[Array, ""]:
    """The VICRegL loss of two or more views.

    ``alpha * multiview_loss + (1 - alpha) * local_loss``, with the same weights in
    both. With two views the second part is `local_loss`; with more it is the mean over
    ordered pairs whose first view is one of the first ``global_views``.

    Args:
        global_embeddings: One embedding a view and image, as in `multiview_loss`.
        maps: Feature maps of the same views, an array of shape
            ``(views, batch, height, width, channels)`` or a sequence of arrays of shape
            ``(batch, height, width, channels)``, whose height and width may differ.
        positions: Where each position of ``maps`` lies in the original image, of the
            same shapes with 2 in place of the channels.
        alpha: Share of the global loss.
        lambd: As in `local_loss`.
        mu: As in `local_loss`.
        nu: As in `local_loss`.
        gamma: As in `local_loss`.
        global_views: Number of leading views that are paired with every other view.
        feature_matches: As in `local_loss`.
        location_matches: As in `local_loss`.
        slot_order: As in `local_loss`.
        clamp_matches: Keep all positions of a map that has fewer than the number of
            matches. Otherwise that is an error.
        axis_name: As in `local_loss`.
        where: As in `local_loss`.
        eps: As in `local_loss`.
        precision: As in `local_loss`.

    Returns:
        A scalar, float32, or float64 if an embedding or a map is float64.

    Raises:
        ValueError: As in `local_loss`, or if the numbers of views differ.
        TypeError: If a dtype is wrong.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from vicreg_jax.local import vicregl_loss
        >>> z = jax.random.normal(jax.random.key(0), (2, 8, 64))
        >>> maps = jax.random.normal(jax.random.key(1), (2, 8, 5, 5, 16))
        >>> cells = jnp.stack(jnp.indices((5, 5), dtype=jnp.float32), axis=-1)
        >>> positions = jnp.broadcast_to(cells, (2, 8, 5, 5, 2))
        >>> print(f"{vicregl_loss(z, maps, positions):.1f}")
        65.3

    Reference:
        Bardes et al., VICRegL, https://arxiv.org/abs/2210.01571, equation 7.
    """
    options = {
        "global_views": global_views,
        "feature_matches": feature_matches,
        "location_matches": location_matches,
        "slot_order": slot_order,
        "clamp_matches": clamp_matches,
        "axis_name": axis_name,
        "eps": eps,
        "precision": precision,
    }
    loss = VICRegLLoss(lambd, mu, nu, gamma, alpha, **options)
    return loss(global_embeddings, maps, positions, where=where)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VICRegLLoss:
    """The VICRegL loss, configured once and called often.

    A pytree: the weights, ``gamma`` and ``alpha`` are its leaves, so that they may be
    traced arrays; the settings are static. See `vicregl_loss` for what they mean and
    `conventions` for the settings of other implementations.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from vicreg_jax.local import VICRegLLoss
        >>> loss = VICRegLLoss(location_matches=(4, 2))
        >>> z = jax.random.normal(jax.random.key(0), (2, 8, 16))
        >>> maps = jax.random.normal(jax.random.key(1), (2, 8, 3, 3, 4))
        >>> gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(z, maps, maps[..., :2])
        >>> gradients[1].shape
        (2, 8, 3, 3, 4)
    """

    lambd: Scalar = 25.0
    mu: Scalar = 12.5
    nu: Scalar = 0.5
    gamma: Scalar = 1.0
    alpha: Scalar = 0.75
    _: KW_ONLY
    # `jax.jit` hashes static fields, so matches must be tuples and `eps` a number.
    global_views: int = field(default=2, metadata={"static": True})
    feature_matches: Matches = field(default=None, metadata={"static": True})
    location_matches: Matches = field(default=(20, 4), metadata={"static": True})
    slot_order: SlotOrder = field(default="raster", metadata={"static": True})
    clamp_matches: bool = field(default=False, metadata={"static": True})
    axis_name: AxisName = field(default=None, metadata={"static": True})
    eps: float = field(default=1e-4, metadata={"static": True})
    precision: PrecisionLike = field(default="highest", metadata={"static": True})

    def __call__(
        self,
        global_embeddings: Views,
        maps: Maps,
        positions: MapPositions,
        *,
        where: RowMask | None = None,
    ) -> Float[Array, ""]:
        """Returns the loss of two or more views; see `vicregl_loss`."""
        arguments, settings = self._checked(global_embeddings, maps, positions, where)
        return both_loss(
            *arguments,
            weights=_weights(self.lambd, self.mu, self.nu),
            alpha=_check.scalar("alpha", self.alpha),
            **settings,
        )

    def terms(
        self,
        global_embeddings: Views,
        maps: Maps,
        positions: MapPositions,
        *,
        where: RowMask | None = None,
    ) -> VICRegLTerms:
        """Returns the unweighted terms of two or more views, to log."""
        arguments, settings = self._checked(global_embeddings, maps, positions, where)
        return VICRegLTerms(*both_terms(*arguments, **settings))

    def _checked(self, global_embeddings, maps, positions, where):
        axes = _check.axes(self.axis_name)
        embeddings = _check.multiview("global_embeddings", global_embeddings, axes)
        maps, positions, names = _check_maps.views(maps, positions, embeddings, axes)
        matching = Matching(
            self.feature_matches,
            self.location_matches,
            self.slot_order,
            self.clamp_matches,
            _check.global_views(self.global_views, len(maps)),
        )
        arguments = (
            embeddings,
            maps,
            positions,
            _check.not_negative("gamma", self.gamma),
            _check.row_mask(where, maps[0].shape[0]),
            _check.not_negative("eps", self.eps),
        )
        return arguments, {
            "matching": _check_maps.matching(matching, names, maps),
            "axes": axes,
            "precision": self.precision,
        }


def _weights(lambd, mu, nu):
    named = {"lambd": lambd, "mu": mu, "nu": nu}
    return tuple(_check.scalar(name, value) for name, value in named.items())
