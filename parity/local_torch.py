"""VICRegL's local loss in PyTorch: in our own words, and lightly's released one."""

from __future__ import annotations

import numpy as np
import torch

from parity import upstream
from parity.local_oracle import OFFICIAL, WEIGHTS, LocalResult
from parity.torch_reference import leaf, raised, torch_terms, weighted_sum


def torch_local_terms(maps, positions, settings=OFFICIAL) -> list[torch.Tensor]:
    """Returns the three terms, means over matches, autograd's from the maps.

    Args:
        maps: Tensors of shape (batch, height, width, channels).
        positions: Tensors of shape (batch, height, width, 2).
        settings: Settings of the matching.
    """
    views = range(len(maps))
    pairs = [(i, j) for i in views[: settings.global_views] for j in views if j != i]
    features, places = (
        [p.flatten(1, 2) for p in points] for points in (maps, positions)
    )
    total = [torch.zeros((), dtype=maps[0].dtype) for _ in range(3)]
    for points, limits in (
        (features, settings.feature_matches),
        (places, settings.location_matches),
    ):
        for pair in pairs:
            for place, (i, j) in enumerate([pair, pair[::-1]]):
                k = points[i].shape[1] if limits is None else limits[place]
                chosen, found = _match(points[i], points[j], k, settings.slot_order)
                u, w = _taken(features[i], chosen), _taken(features[j], found)
                for slot in range(k):
                    terms = torch_terms(u[:, slot], w[:, slot])
                    for at, term in enumerate(terms):
                        total[at] = total[at] + term / (2 * len(pairs) * k)
    return total


def torch_local_loss(
    maps, positions, settings=OFFICIAL, dtype="float64", compute=None
) -> LocalResult:
    """Returns terms, total and gradients.

    Args:
        maps: Arrays.
        positions: Arrays.
        settings: Settings of the matching.
        dtype: Name of the maps' dtype.
        compute: Name of a dtype that they are raised to first; None: as they are.
    """
    leaves = [leaf(x, dtype) for x in maps]
    terms = torch_local_terms(
        [raised(x, compute) for x in leaves],
        [torch.tensor(np.asarray(p, np.float64)) for p in positions],
        settings,
    )
    total = weighted_sum(terms, WEIGHTS)
    invariance, variance, covariance = (float(term.detach()) for term in terms)
    value, gradients = float(total.detach()), _gradients(total, leaves)
    return LocalResult(invariance, variance, covariance, value, gradients)


def lightly_loss(embeddings, maps, positions, alpha, dtype="float64", global_views=2):
    """Returns the total of lightly's VICRegLLoss, and its gradients.

    Args:
        embeddings: Arrays of shape (batch, dim), one a view.
        maps: Arrays of shape (batch, height, width, channels).
        positions: Arrays of shape (batch, height, width, 2).
        alpha: Share of the global loss.
        dtype: Name of the dtype.
        global_views: Number of global views.

    Raises:
        upstream.NotLoaded: lightly is not installed, or another release is.
    """
    z, x = ([leaf(a, dtype) for a in arrays] for arrays in (embeddings, maps))
    grids = [torch.tensor(np.asarray(p, np.float64)) for p in positions]
    grids = [p.to(getattr(torch, dtype)) for p in grids]
    features = list(zip(z, x, strict=True))
    loss = upstream.load("lightly_local")(25.0, 25.0, 1.0, 1.0)(alpha=alpha)
    local = {}
    if len(maps) > global_views:
        local = {
            "local_view_features": features[global_views:],
            "local_view_grids": grids[global_views:],
        }
    total = loss(
        global_view_features=features[:global_views],
        global_view_grids=grids[:global_views],
        **local,
    ).sum()
    gradients = _gradients(total, [*z, *x])
    return float(total.detach()), gradients[: len(z)], gradients[len(z) :]


def _match(x, y, k, slot_order):
    """Returns positions of x and their nearest ones of y, chosen in float64."""
    with torch.no_grad():
        # A rounded distance could choose another match than the oracle.
        squares = (x.double()[:, :, None] - y.double()[:, None]).pow(2).sum(3)
        distances, nearest = squares.min(dim=2)
        # Stable, as the oracle's order is by distance and then by position.
        chosen = distances.argsort(dim=1, stable=True)[:, :k]
        if slot_order == "raster":
            chosen = chosen.sort(dim=1).values
        return chosen, nearest.gather(1, chosen)


def _taken(x, at):
    return x.gather(1, at[:, :, None].expand(-1, -1, x.shape[2]))


def _gradients(total, leaves) -> list[np.ndarray]:
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [
        np.zeros(x.shape) if g is None else g.double().numpy()
        for g, x in zip(found, leaves, strict=True)
    ]
