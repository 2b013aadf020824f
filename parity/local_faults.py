"""VICRegL's local loss with a fault in it: each is one that a careless port would have.

The faults replace one part of the real computation while it is traced. What JAX has
traced of the real one is not used: the functions run without their `jit`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from unittest import mock

import jax
import jax.numpy as jnp

from vicreg_jax import _local, local
from vicreg_jax._moments import Moments, moments


def _replacing(name: str, replacement: Callable) -> Callable:
    """Returns the local loss with one function of `vicreg_jax._local` replaced."""
    untraced = {
        jitted: getattr(_local, jitted).__wrapped__
        for jitted in ("map_loss", "map_terms")
    }

    def loss(*args, **options):
        with ExitStack() as patches:
            for attribute, function in {**untraced, name: replacement}.items():
                patches.enter_context(mock.patch.object(_local, attribute, function))
            # `local` imported the function by name, and would call the real one.
            patched = mock.patch.object(local, "map_loss", untraced["map_loss"])
            patches.enter_context(patched)
            return local.local_loss(*args, **options)

    return loss


# Bound before anything is patched: the faults below stand in for it, and call it.
_matches = _local.matches


def _soft_matches(maps, positions, matching):
    """Lets gradients flow through the choice: as a softmax of the distances would."""
    found = _matches(maps, positions, matching)
    soft = []
    for match in found:
        x, y = maps[match.source], maps[match.target]
        if match.chosen is not None:
            x = jnp.einsum("bsp,bpc->bsc", match.chosen.astype(x.dtype), x)
        likeness = jax.nn.softmax(jnp.einsum("bsc,bqc->bsq", x, y))
        # Zero in value, so that only the gradients can give the fault away.
        through = likeness - jax.lax.stop_gradient(likeness)
        soft.append(match._replace(found=match.found.astype(x.dtype) + through))
    return soft


def _pooled_moments(slots, where, axes, transfer_dtype, precision):
    """Takes every position for a sample, instead of every image."""
    count = slots.shape[0]
    mask = None if where is None else jnp.tile(where, count)
    rows = slots.reshape(-1, slots.shape[2])
    pooled = moments(rows, mask, axes, transfer_dtype, precision)
    return Moments(*(jnp.broadcast_to(m, (count, *m.shape)) for m in pooled))


def _one_direction(maps, positions, matching):
    """Matches the first view with the second, and never the second with the first."""
    return [
        # Doubled, so that the loss is still a mean.
        match._replace(weights=2 * match.weights)
        for match in _matches(maps, positions, matching)
        if match.source < match.target
    ]


def _ignored_flips(maps1, maps2, positions1, positions2, *args, **options):
    """Takes the second view for mirrored: where its flip was not followed."""
    mirrored = jnp.flip(positions2, axis=2)
    return local.local_loss(maps1, maps2, positions1, mirrored, *args, **options)


LOCAL_FAULTS: dict[str, Callable] = {
    "choice-gradient": _replacing("matches", _soft_matches),
    "pooled-slots": _replacing("_moments", _pooled_moments),
    "one-direction": _replacing("matches", _one_direction),
    "ignored-flips": _ignored_flips,
}
"""By name; each called like `vicreg_jax.local.local_loss`."""
