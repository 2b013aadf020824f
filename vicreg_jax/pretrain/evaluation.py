"""What frozen features know, and whether embeddings are healthy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import grain
import numpy as np

from vicreg_jax import diagnostics
from vicreg_jax._diagnostics import COLLAPSED_STD
from vicreg_jax.pretrain import mesh as meshes
from vicreg_jax.pretrain.input import Datasets, batches, sample, to_device
from vicreg_jax.probe import Labelled, knn_probe, probes

if TYPE_CHECKING:
    from jaxtyping import Array

    from vicreg_jax.pretrain.input import Source
    from vicreg_jax.pretrain.step import Programs, State
    from vicreg_jax.probe import Accuracies

_QUICK = 1000  # images that a quick look learns from, and is judged on
_MOST_PIXELS = 100_000_000  # of a data set whose raw pixels are probed as well


class Evaluation(NamedTuple):
    """The end of a run.

    Attributes:
        accuracies: 0 to 1, by features (raw pixels, untrained, VICReg) and by probe.
        held_out: the features that were judged on.
    """

    accuracies: Accuracies
    held_out: Labelled


def features(
    programs: Programs, state: State, source: Source, *, workers: int = 0
) -> Labelled:
    """Returns the frozen features of all images that can be read.

    Every process gets all of them, each having encoded its part.
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
    return Labelled(found[where], labels[where])


def evaluate(
    programs: Programs, state: State, datasets: Datasets, *, workers: int = 0
) -> Evaluation | None:
    """Returns what linear probes and neighbours reach, beside two baselines.

    Every process computes all of it: waiting for one would end the others.
    """
    if datasets.held_out is None:
        return None
    config = programs.config
    train, held_out = (sample(part, config.probe_images) for part in datasets if part)
    pairs = {}
    if (len(train) + len(held_out)) * np.prod(train.shape) <= _MOST_PIXELS:
        pairs["raw pixels"] = _pixels(train), _pixels(held_out)
    for name, at in (("untrained", programs.start()), ("VICReg", state)):
        both = (features(programs, at, s, workers=workers) for s in (train, held_out))
        pairs[name] = tuple(both)
    accuracies = {name: probes(*pair, seed=config.seed) for name, pair in pairs.items()}
    return Evaluation(accuracies, pairs["VICReg"][1])


def quick_check(
    programs: Programs,
    state: State,
    datasets: Datasets,
    embeddings: Array,
    *,
    workers: int = 0,
) -> dict[str, float]:
    """Returns k-NN accuracy on a few images, and the health of a batch's embeddings."""
    health = {
        k: float(v) for k, v in diagnostics(np.asarray(embeddings))._asdict().items()
    }
    if datasets.held_out is None:
        return health
    train, held_out = (
        features(programs, state, sample(part, _QUICK), workers=workers)
        for part in datasets
        if part
    )
    return {"k-NN": knn_probe(train, held_out)} | health


def summary(check: dict[str, float], batch: int, dim: int) -> str:
    """Returns a look in plain words."""
    accuracy = f"k-NN {100 * check['k-NN']:.1f}%, " if "k-NN" in check else ""
    floor = check["covariance_floor"]
    return (
        f"{accuracy}effective rank {check['effective_rank']:.0f} of {min(batch, dim)}, "
        f"covariance {check['covariance']:.2f} ({floor:.2f} at least, with "
        f"{batch} images a batch)"
    )


def warning(check: dict[str, float]) -> str | None:
    """Returns what to say where embeddings collapse."""
    if check["collapsed"] > 0.5:
        return (
            f"The embeddings are collapsing: {100 * check['collapsed']:.0f}% of their "
            "columns hardly vary from image to image (standard deviation below "
            f"{COLLAPSED_STD}). "
            "Raise --mu or lower --learning-rate."
        )
    if check["effective_rank"] < 2:
        return (
            "The embeddings are collapsing: they vary along one direction only "
            f"(effective rank {check['effective_rank']:.1f}). Raise --nu or lower "
            "--learning-rate."
        )
    return None


def _pixels(source: Source) -> Labelled:
    rows = batches(source, batch=256, shuffle=False, drop_remainder=False, epochs=1)
    parts = [
        (np.asarray(batch.images)[batch.where], np.asarray(batch.labels)[batch.where])
        for batch in rows
    ]
    images, labels = map(np.concatenate, zip(*parts, strict=True))
    return Labelled(images.reshape(len(images), -1) / np.float32(255), labels)
