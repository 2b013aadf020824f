"""A picture of some images, each in a row with its nearest neighbors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from sklearn.neighbors import NearestNeighbors

if TYPE_CHECKING:
    from jaxtyping import Float, Integer
    from matplotlib.axes import Axes

    from vicreg_jax.pretrain.input import Source

_QUERIES = 8  # rows of the picture


def contact_sheet(
    features: Float[np.ndarray, "images width"],
    ids: Integer[np.ndarray, " images"],
    source: Source,
    neighbors: int,
) -> Figure:
    """Returns a picture of images, drawn at random, and their nearest neighbors.

    Each row of the features is of the image in `source` whose index is in `ids`. There
    are fewer neighbors if there are too few images.
    """
    rng = np.random.default_rng(0)
    count = min(_QUERIES, len(ids))
    queries = np.sort(rng.choice(len(ids), count, replace=False))
    nearest, cosines = nearest_neighbors(features, queries, neighbors)
    columns = nearest.shape[1] + 1
    figure = Figure(figsize=(1.3 * columns, 1.55 * count), dpi=110)
    figure.set_layout_engine("constrained")
    rows = figure.subplots(count, columns, squeeze=False)
    for axes, query, found, likeness in zip(
        rows, queries, nearest, cosines, strict=True
    ):
        _show(axes[0], source, int(ids[query]), "query")
        for panel, neighbor, cosine in zip(axes[1:], found, likeness, strict=True):
            _show(panel, source, int(ids[neighbor]), f"{cosine:.3f}")
            if source.labels[ids[neighbor]] != source.labels[ids[query]]:
                panel.xaxis.label.set_color("red")
    figure.suptitle("Nearest neighbors, with the cosine of their features", fontsize=9)
    return figure


def nearest_neighbors(
    features: Float[np.ndarray, "images width"],
    queries: Integer[np.ndarray, " queries"],
    neighbors: int,
) -> tuple[
    Integer[np.ndarray, "queries neighbors"], Float[np.ndarray, "queries neighbors"]
]:
    """Returns the rows nearest to each query by cosine, and these cosines.

    Queries are indices of rows. A row is not its own neighbor.
    """
    neighbors = min(neighbors, len(features) - 1)
    search = NearestNeighbors(n_neighbors=neighbors + 1, metric="cosine").fit(features)
    distances, rows = search.kneighbors(features[queries])
    # A copy of the query may come before it. With more copies than neighbors the query
    # may be absent, and the last neighbor is dropped instead.
    own = rows == queries[:, None]
    own[~own.any(axis=1), -1] = True
    shape = (len(queries), neighbors)
    return rows[~own].reshape(shape), 1 - distances[~own].reshape(shape)


def _show(axes: Axes, source: Source, index: int, title: str) -> None:
    """Draws an image in its original aspect ratio, with its class or file name."""
    image, label, aspect = source[index]
    height, width = image.shape[:2]
    # Of a pixel, where the image was resized.
    ratio = width / (height * aspect)
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, aspect=ratio)
    axes.set(xticks=[], yticks=[])
    named = 0 <= label < len(source.classes)
    name = source.classes[label] if named else Path(source.name(index)).name
    axes.set_title(title, fontsize=7, pad=2)
    axes.set_xlabel(name[-20:], fontsize=7, labelpad=2)
