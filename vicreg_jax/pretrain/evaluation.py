"""Probes of frozen features, and the health of embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import grain
import numpy as np

from vicreg_jax import diagnostics
from vicreg_jax._diagnostics import COLLAPSED_STD
from vicreg_jax.pretrain import mesh as meshes
from vicreg_jax.pretrain.input import Datasets, batches, sample, to_device
from vicreg_jax.probe import Labeled, knn_probe, probes

if TYPE_CHECKING:
    from jaxtyping import Array

    from vicreg_jax.pretrain.input import Source
    from vicreg_jax.pretrain.step import Programs, State
    from vicreg_jax.probe import Accuracies

_QUICK_IMAGES = 1000  # at most, for the fit and for the test of a quick check
_COLLAPSED_STD = 0.1  # of a column; healthy ones are near 1
_MOST_PIXELS = 100_000_000  # of the datasets whose raw pixels are a baseline


class Evaluation(NamedTuple):
    """The probes at the end of a run.

    Attributes:
        accuracies: from 0 to 1, by features (raw pixels, untrained, VICReg) and probe.
        held_out: the held-out features of the trained encoder, with their labels.
    """

    accuracies: Accuracies
    held_out: Labeled


def features(
    programs: Programs, state: State, source: Source, *, workers: int = 0
) -> Labeled:
    """Returns the frozen features of all readable images.

    Each process encodes its share of the images and returns the features of all.

    Args:
        programs: the programs of the run.
        state: the state whose encoder is used.
        source: the images.
        workers: processes that read and decode images. 0: this process does.

    Returns:
        Features of shape ``(images, width of the encoder)``, float32, with labels.
    """
    rows = batches(
        source,
        batch=programs.config.batch,
        shard=grain.sharding.ShardByJaxProcess(),
        shuffle=False,
        drop_remainder=False,
        epochs=1,
        workers=workers,
    )
    parts = []
    for batch in to_device(rows, meshes.by_rows(programs.mesh)):
        part = programs.encode(
            state, batch.images, batch.aspect, batch.labels, batch.where
        )
        parts.append([np.asarray(array) for array in part])
    rows.close()
    found, labels, where = map(np.concatenate, zip(*parts, strict=True))
    return Labeled(found[where], labels[where])


def evaluate(
    programs: Programs, state: State, datasets: Datasets, *, workers: int = 0
) -> Evaluation | None:
    """Returns the accuracies of linear probes and k-NN on three kinds of features.

    These are the features of the trained encoder, those of the untrained encoder, and
    the raw pixels, which are left out for large datasets.

    Args:
        programs: the programs of the run.
        state: the trained state.
        datasets: images to fit the probes to, and images to test them on.
        workers: processes that read and decode images. 0: this process does.

    Returns:
        The accuracies, or None if the images have no labels.
    """
    if datasets.held_out is None:
        return None
    # All processes fit the same probes. If one did and the others waited, JAX would
    # take them for lost.
    config = programs.config
    train, held_out = (sample(part, config.probe_images) for part in datasets if part)
    pairs = {}
    if (len(train) + len(held_out)) * np.prod(train.shape) <= _MOST_PIXELS:
        pairs["raw pixels"] = _pixels(train), _pixels(held_out)
    for name, at in (("untrained", programs.start()), ("VICReg", state)):
        both = (features(programs, at, s, workers=workers) for s in (train, held_out))
        pairs[name] = tuple(both)
    accuracies = {
        name: probes(*pair, available=len(datasets.train), seed=config.seed)
        for name, pair in pairs.items()
    }
    return Evaluation(accuracies, pairs["VICReg"][1])


def quick_check(
    programs: Programs,
    state: State,
    datasets: Datasets,
    embeddings: Array,
    *,
    workers: int = 0,
) -> dict[str, float]:
    """Returns k-NN accuracy on a sample of images, and diagnostics of embeddings.

    Args:
        programs: the programs of the run.
        state: the present state.
        datasets: images that vote in k-NN, and images to test it on.
        embeddings: those of a training batch, shape ``(batch, dim)``.
        workers: processes that read and decode images. 0: this process does.

    Returns:
        The fields of `vicreg_jax.Diagnostics` by name, and "k-NN" if there are labels.
    """
    found = diagnostics(np.asarray(embeddings), collapsed_std=_COLLAPSED_STD)
    health = {name: float(value) for name, value in found._asdict().items()}
    if datasets.held_out is None:
        return health
    train, held_out = (
        features(programs, state, sample(part, _QUICK_IMAGES), workers=workers)
        for part in datasets
        if part
    )
    return {"k-NN": knn_probe(train, held_out)} | health


def summary(check: dict[str, float], batch: int, dim: int) -> str:
    """Returns one line about a quick check.

    Args:
        check: as returned by `quick_check`.
        batch: number of rows of the embeddings.
        dim: number of their columns.
    """
    accuracy = f"k-NN {100 * check['k-NN']:.1f}%, " if "k-NN" in check else ""
    floor = check["covariance_floor"]
    return (
        f"{accuracy}effective rank {check['effective_rank']:.0f} of {min(batch, dim)}, "
        f"covariance {check['covariance']:.2f} (at least {floor:.2f} at a batch size "
        f"of {batch})"
    )


def warning(check: dict[str, float]) -> str | None:
    """Returns a warning if the embeddings collapse, or else None."""
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


def _pixels(source: Source) -> Labeled:
    rows = batches(source, batch=256, shuffle=False, drop_remainder=False, epochs=1)
    parts = [
        (np.asarray(batch.images)[batch.where], np.asarray(batch.labels)[batch.where])
        for batch in rows
    ]
    images, labels = map(np.concatenate, zip(*parts, strict=True))
    return Labeled(images.reshape(len(images), -1) / np.float32(255), labels)
