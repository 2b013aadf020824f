"""Probes of frozen features, and the health of embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vicreg_jax import diagnostics
from vicreg_jax._diagnostics import COLLAPSED_STD
from vicreg_jax.pretrain.features import features, readable_features, untrained
from vicreg_jax.pretrain.input import Datasets, batches, sample
from vicreg_jax.pretrain.input.batches import IN_ORDER
from vicreg_jax.probe import Labeled, knn_probe, probes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Array, Float

    from vicreg_jax.pretrain.input import Source
    from vicreg_jax.pretrain.step import Programs, State
    from vicreg_jax.probe import Accuracies

_QUICK_IMAGES = 1000  # at most, for the fit and for the test of a quick check
_MOST_PIXELS = 100_000_000  # of the datasets whose raw pixels are a baseline
# How a quick check joins the diagnostics of the two views; by default, their mean.
_OVER_VIEWS = {
    "covariance": np.sum,
    "covariance_floor": np.sum,
    "std_min": np.min,
    "covariance_condition": np.max,
}


class Evaluation(NamedTuple):
    """The probes at the end of a run.

    Attributes:
        accuracies: From 0 to 1, by features (raw pixels, untrained, VICReg) and probe.
        held_out: The held-out features of the trained encoder, with their labels.
        train_images: Number of images that the probes were fitted to.
        unreadable: Names of the images that could not be read, training and held-out.
    """

    accuracies: Accuracies
    held_out: Labeled
    train_images: int
    unreadable: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of images."""
        return {
            "train_images": self.train_images,
            "held_out_images": len(self.held_out.labels),
            "unreadable_images": len(self.unreadable),
        }

    @property
    def summary(self) -> str:
        """How many images were used, and which could not be read."""
        text = (
            f"Probes fitted to {self.train_images} images and evaluated on "
            f"{len(self.held_out.labels)}"
        )
        if self.unreadable:
            text += f"; {unreadable_summary(self.unreadable)}"
        return text


def unreadable_summary(names: Iterable[str]) -> str:
    """Returns the number of unreadable images, and the names of the first 20."""
    names = sorted(names)
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    noun = "image" if len(names) == 1 else "images"
    return f"{len(names)} {noun} could not be read: {shown}"


def evaluate(
    programs: Programs, state: State, datasets: Datasets, *, workers: int = 0
) -> Evaluation | None:
    """Returns the accuracies of linear probes and k-NN on three kinds of features.

    These are the features of the trained encoder, those of the untrained encoder, and
    the raw pixels, which are left out for large datasets. The batch norms of the
    untrained encoder have the statistics of training images.

    With ``evaluation="k-NN"`` there is only k-NN of the trained encoder, in which all
    training images vote. Each host keeps the features of all images, 10.5 GB of
    ImageNet by a ResNet-50, and each device has its share of them.

    Returns:
        The accuracies, or None if the images have no labels.

    Raises:
        UnreadableError: If an image is unreadable, and the run asks to stop at one.
    """
    if datasets.held_out is None:
        return None
    # All processes fit the same probes. If one did and the others waited, JAX would
    # take them for lost.
    config = programs.config
    parts = [part for part in datasets if part]
    if config.evaluation == "probes":
        parts = [sample(part, config.probe_images) for part in parts]
    both, unreadable = [], []
    for source in parts:
        found, readable = readable_features(programs, state, source, workers=workers)
        both.append(found)
        unreadable += [source.name(int(i)) for i in np.flatnonzero(~readable)]
    if config.evaluation == "probes":
        pairs = _baselines(programs, datasets.train, *parts, workers=workers)
        accuracies = {
            name: probes(*pair, available=len(datasets.train), seed=config.seed)
            for name, pair in (pairs | {"VICReg": tuple(both)}).items()
        }
    else:
        accuracies = {"VICReg": {"k-NN": knn_probe(*both, mesh=programs.mesh)}}
    return Evaluation(accuracies, both[1], len(both[0].labels), tuple(unreadable))


def _baselines(
    programs: Programs, source: Source, *parts: Source, workers: int
) -> dict[str, tuple[Labeled, ...]]:
    """Returns the raw pixels of both parts, and their features before training."""
    pairs = {}
    if sum(map(len, parts)) * np.prod(source.shape) <= _MOST_PIXELS:
        pairs["raw pixels"] = tuple(map(_pixels, parts))
    start = untrained(programs, source, workers=workers)
    pairs["untrained"] = tuple(
        features(programs, start, part, workers=workers) for part in parts
    )
    return pairs


def quick_check(
    programs: Programs,
    state: State,
    datasets: Datasets,
    embeddings: Float[Array, "2 batch dim"],
    *,
    workers: int = 0,
) -> dict[str, float]:
    """Returns k-NN accuracy on a sample of images, and diagnostics of embeddings.

    The embeddings are those of both views of a training batch.

    Returns:
        The fields of `vicreg_jax.Diagnostics` by name, and "k-NN" if there are labels.
        The covariance and its floor are summed over both views, as in the loss.
        ``std_min`` and ``covariance_condition`` are those of the worse view, and the
        others means over both.
    """
    health = _health(embeddings)
    if datasets.held_out is None:
        return health
    train, held_out = (
        features(programs, state, sample(part, _QUICK_IMAGES), workers=workers)
        for part in datasets
        if part
    )
    # Where few images have labels, the sample may have none.
    if not all((part.labels >= 0).any() for part in (train, held_out)):
        return health
    return {"k-NN": knn_probe(train, held_out)} | health


def summary(check: dict[str, float], batch: int, dim: int) -> str:
    """Returns one line about a quick check of embeddings of shape (2, batch, dim)."""
    accuracy = f"k-NN {100 * check['k-NN']:.1f}%, " if "k-NN" in check else ""
    floor = check["covariance_floor"]
    return (
        f"{accuracy}effective rank {check['effective_rank']:.0f} of {min(batch, dim)}, "
        f"covariance of both views {check['covariance']:.2f} (at least {floor:.2f} at "
        f"a batch size of {batch})"
    )


def warning(check: dict[str, float]) -> str | None:
    """Returns a warning if the embeddings collapse, or else None."""
    # Two tests, because the effective rank ignores the scale: columns that all shrink
    # may keep it.
    if check["collapsed"] > 0.5:
        return (
            f"The embeddings are collapsing: {100 * check['collapsed']:.0f}% of the "
            f"columns have a standard deviation below {COLLAPSED_STD}. "
            "Raise --mu or lower --learning-rate."
        )
    if check["effective_rank"] < 2:
        return (
            "The embeddings are collapsing: they vary along one direction "
            f"(effective rank {check['effective_rank']:.1f}). Raise --nu or lower "
            "--learning-rate."
        )
    return None


def _health(embeddings: Float[Array, "2 batch dim"]) -> dict[str, float]:
    found = [diagnostics(z, collapsed_std=COLLAPSED_STD) for z in embeddings]
    return {
        name: float(_OVER_VIEWS.get(name, np.mean)([getattr(z, name) for z in found]))
        for name in found[0]._fields
    }


def _pixels(source: Source) -> Labeled:
    # Whole images, also if the views are cropped on the host.
    rows = batches(source, batch=256, **IN_ORDER)
    parts = [
        (np.asarray(batch.images)[batch.where], np.asarray(batch.labels)[batch.where])
        for batch in rows
    ]
    images, labels = map(np.concatenate, zip(*parts, strict=True))
    # Divided by a Python number, uint8 would become float64.
    return Labeled(images.reshape(len(images), -1) / np.float32(255), labels)
