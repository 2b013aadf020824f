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
from vicreg_jax.local import VICRegLLoss
from vicreg_jax.pretrain.errors import UsageError

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from vicreg_jax.pretrain.config import Config

GLOBAL_VIEWS = 2  # those of `pair`, which are compared with every other view


class Objective(NamedTuple):
    """The loss of one step and its unweighted terms, scalars on the device.

    Attributes:
        loss: weighted sum of the terms.
        of_views: terms of the embeddings; see `multiview_terms`.
        of_maps: terms of the feature maps, see `VICRegLTerms`; None for VICReg.
        std: standard deviation of the embeddings, averaged over columns and views.
    """

    loss: Float[Array, ""]
    of_views: VICRegTerms
    of_maps: VICRegTerms | None
    std: Float[Array, ""]


def objective(
    config: Config, mesh: Mesh, outputs: Sequence[Any], places: Sequence[Any] | None
) -> Objective:
    """Returns the loss of the whole batch.

    Args:
        config: the configuration of the run.
        mesh: the devices that the batch is spread over.
        outputs: what the network returns for each view: the embeddings, or with
            ``config.alpha`` embeddings and maps.
        places: where each view lies, for VICRegL only.
    """

    def weighted(terms):
        return terms.weighted_sum(config.lambd, config.mu, config.nu)

    if config.alpha is None:
        settings = {"global_views": GLOBAL_VIEWS}
        terms = _on_mesh(partial(multiview_terms, **settings), mesh, tuple(outputs))
        return Objective(weighted(terms), terms, None, _std(outputs))
    embeddings, maps = zip(*outputs, strict=True)
    positions = tuple(
        place.cells(*of_view.shape[1:3])
        for place, of_view in zip(places or (), maps, strict=True)
    )
    terms = _on_mesh(
        partial(_vicregl_terms, config.location_matches),
        mesh,
        *(embeddings, maps, positions),
    )
    alpha = config.alpha
    loss = alpha * weighted(terms.of_views) + (1 - alpha) * weighted(terms.of_maps)
    return Objective(loss, terms.of_views, terms.of_maps, _std(embeddings))


def _vicregl_terms(location_matches, *arguments, axis_name=None):
    loss = VICRegLLoss(location_matches=location_matches, axis_name=axis_name)
    try:
        return loss.terms(*arguments)
    except ValueError as error:
        # For example, a map may have fewer positions than there are matches to keep.
        raise UsageError(str(error)) from error


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


def _std(embeddings):
    """Returns the standard deviation, averaged over columns and views."""
    stds = [jnp.std(z, axis=0, dtype=jnp.float32, ddof=1).mean() for z in embeddings]
    return sum(stds) / len(stds)
