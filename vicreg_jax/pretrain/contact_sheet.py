"""A picture of some images, each in a row with its nearest neighbors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vicreg_jax.pretrain.input import Subset
from vicreg_jax.pretrain.input.sources import UNLABELED

if TYPE_CHECKING:
    from jaxtyping import Float, Integer
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vicreg_jax.pretrain.input import Source

_QUERIES = 8  # rows of the picture


class Queries(NamedTuple):
    """Query images.

    Attributes:
        features: One row for each query.
        rows: The row of each query among the images that are searched; -1 for none.
        source: The query images.
    """

    features: Float[np.ndarray, "queries width"]
    rows: Integer[np.ndarray, " queries"]
    source: Source


def contact_sheet(
    features: Float[np.ndarray, "images width"],
    ids: Integer[np.ndarray, " images"],
    source: Source,
    neighbors: int,
    queries: Queries | None = None,
) -> Figure:
    """Returns a picture of query images and their nearest neighbors.

    Args:
        features: One row for each image.
        ids: The index of each image in `source`.
        source: The images.
        neighbors: Number of neighbors of each image; fewer if there are too few images.
        queries: The query images. None: some of the images, drawn at random.
    """
    from matplotlib.figure import Figure

    queries = queries or _drawn(features, ids, source)
    nearest, cosines = nearest_neighbors(features, queries, neighbors)
    count, columns = len(nearest), nearest.shape[1] + 1
    figure = Figure(figsize=(1.3 * columns, 1.55 * count), dpi=110)
    figure.set_layout_engine("constrained")
    rows = figure.subplots(count, columns, squeeze=False)
    for query, (axes, found, likeness) in enumerate(
        zip(rows, nearest, cosines, strict=True)
    ):
        _show(axes[0], queries.source, query, "query")
        label = queries.source.labels[query]
        for panel, neighbor, cosine in zip(axes[1:], found, likeness, strict=True):
            _show(panel, source, int(ids[neighbor]), f"{cosine:.3f}")
            if label not in (UNLABELED, source.labels[ids[neighbor]]):
                panel.xaxis.label.set_color("red")
    figure.suptitle("Nearest neighbors, with the cosine of their features", fontsize=9)
    return figure


def _drawn(features, ids, source: Source) -> Queries:
    rng = np.random.default_rng(0)
    count = min(_QUERIES, len(ids))
    rows = np.sort(rng.choice(len(ids), count, replace=False))
    return Queries(features[rows], rows, Subset(source, ids[rows]))


def nearest_neighbors(
    features: Float[np.ndarray, "images width"], queries: Queries, neighbors: int
) -> tuple[
    Integer[np.ndarray, "queries neighbors"], Float[np.ndarray, "queries neighbors"]
]:
    """Returns the rows nearest to each query by cosine, and these cosines.

    Args:
        features: One row for each image.
        queries: The query images. A query is not its own neighbor.
        neighbors: Number of neighbors; fewer if there are too few rows.
    """
    from sklearn.neighbors import NearestNeighbors

    neighbors = min(neighbors, len(features) - 1)
    # One more, because a query that is among the images finds itself.
    search = NearestNeighbors(n_neighbors=neighbors + 1, metric="cosine").fit(features)
    distances, rows = search.kneighbors(queries.features)
    # A copy of the query may come before it. With more copies than neighbors the query
    # may be absent, and the last neighbor is dropped instead.
    own = rows == queries.rows[:, None]
    own[~own.any(axis=1), -1] = True
    shape = (len(rows), neighbors)
    return rows[~own].reshape(shape), 1 - distances[~own].reshape(shape)


def _show(axes: Axes, source: Source, index: int, title: str) -> None:
    """Draws an image in its original aspect ratio, with its class or file name."""
    image, label, aspect = source[index]
    height, width = image.shape[:2]
    # Height over width of a shown pixel, which undoes the resizing to a square.
    ratio = width / (height * aspect)
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, aspect=ratio)
    axes.set(xticks=[], yticks=[])
    named = 0 <= label < len(source.classes)
    name = source.classes[label] if named else Path(source.name(index)).name
    axes.set_title(title, fontsize=7, pad=2)
    axes.set_xlabel(name[-20:], fontsize=7, labelpad=2)
