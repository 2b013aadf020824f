"""The loss of a training step on all devices of a mesh, with its terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vicreg_jax import VICRegTerms, multiview_terms
from vicreg_jax.local import VICRegLLoss, VICRegLTerms
from vicreg_jax.pretrain.errors import UsageError

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from vicreg_jax.pretrain.config import Config

    Outputs = Sequence[tuple[Array, Array]]
    Places = Sequence[Any]

GLOBAL_VIEWS = 2  # those of `pair`, which are compared with every other view


class Objective(NamedTuple):
    """The loss of one step and its unweighted terms, scalars on the device.

    Attributes:
        loss: Weighted sum of the terms.
        of_views: Terms of the embeddings; see `multiview_terms`.
        of_maps: Terms of the feature maps, see `VICRegLTerms`; None for VICReg.
        std: Standard deviation of the embeddings, averaged over columns and views.
    """

    loss: Float[Array, ""]
    of_views: VICRegTerms
    of_maps: VICRegTerms | None
    std: Float[Array, ""]


def view_terms(mesh: Mesh, *embeddings: Array) -> VICRegTerms:
    """Returns VICReg's terms of two or more views, each of shape (batch, dim)."""
    terms = partial(multiview_terms, global_views=GLOBAL_VIEWS)
    return _on_mesh(terms, mesh, embeddings)


def vicregl_terms(
    location_matches: tuple[int, int], mesh: Mesh, outputs: Outputs, places: Places
) -> VICRegLTerms:
    """Returns VICRegL's terms of two or more views of the whole batch.

    Each view has an embedding and a map in `outputs`, and a `Place` in `places`.

    Raises:
        UsageError: If a map has fewer positions than there are matches to keep.
    """
    embeddings, maps = zip(*outputs, strict=True)
    positions = tuple(
        place.cells(*of_view.shape[1:3])
        for place, of_view in zip(places, maps, strict=True)
    )
    terms = partial(_vicregl_terms, location_matches)
    return _on_mesh(terms, mesh, embeddings, maps, positions)


def objective(
    config: Config,
    embeddings: Sequence[Array],
    of_views: VICRegTerms,
    of_maps: VICRegTerms | None,
) -> Objective:
    """Returns the loss with its terms; see `Objective`.

    The embeddings of each view have shape ``(batch, dim)``.
    """
    weights = config.lambd, config.mu, config.nu
    loss = of_views.weighted_sum(*weights)
    if config.alpha is not None and of_maps is not None:
        # VICRegL gives the terms of both losses the same weights.
        local = of_maps.weighted_sum(*weights)
        loss = config.alpha * loss + (1 - config.alpha) * local
    # As in the variance term, unbiased, and in float32 also for bfloat16 embeddings.
    # Without its epsilon, so that a constant column has 0.
    stds = [jnp.std(z, axis=0, dtype=jnp.float32, ddof=1).mean() for z in embeddings]
    return Objective(loss, of_views, of_maps, jnp.stack(stds).mean())


def _vicregl_terms(location_matches, *arguments, axis_name=None):
    loss = VICRegLLoss(location_matches=location_matches, axis_name=axis_name)
    try:
        return loss.terms(*arguments)
    except ValueError as error:
        # A map has fewer positions than there are matches to keep. The rest is bugs.
        name = "`location_matches`"
        if name not in str(error):
            raise
        # The `maps` are of the views, which have the same numbers.
        text = str(error).replace(name, "--location-matches").replace("`maps", "`views")
        raise UsageError(text) from error


def _on_mesh(terms: Callable, mesh: Mesh, *arguments):
    """Returns the terms of arrays that are spread over all axes of the mesh.

    On a mesh with one axis, the compiler inserts the collectives. With more axes, the
    loss needs their names to split its matrix products into blocks, which moves fewer
    bytes.
    """
    names = mesh.axis_names
    if len(names) == 1:
        return terms(*arguments)
    return jax.shard_map(
        partial(terms, axis_name=names),
        mesh=mesh,
        in_specs=P(names),
        out_specs=P(),
    )(*arguments)
