"""Does VICRegL's local loss help dense prediction? VICReg beside it, on digits.

python -m benchmarks.dense              # three seeds of each, prints a table
python -m benchmarks.dense --seeds 1 --epochs 2

Each run is the recipe `canvas` without labels. Its images show three digits at known
places, two of them of one class. Ridge regression on frozen features tells the class of
a digit from one position of the feature map, and the class of which there are two from
the mean of the map.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from vicreg_jax.encoder import Encoder, load_encoder
from vicreg_jax.pretrain import pretrain, recipes
from vicreg_jax.pretrain.config import Config
from vicreg_jax.pretrain.export import as_encoder
from vicreg_jax.pretrain.features import untrained
from vicreg_jax.pretrain.input import load_datasets
from vicreg_jax.pretrain.input.canvas import BACKGROUND, canvases
from vicreg_jax.pretrain.mesh import make_mesh
from vicreg_jax.pretrain.run_folder import finished
from vicreg_jax.pretrain.step import Programs
from vicreg_jax.probe import Labeled, ridge

ALPHAS = {"VICReg": None, "VICRegL, alpha 0.9": 0.9, "VICRegL, alpha 0.75": 0.75}
_STEPS = 8  # that are timed


def main(
    seeds: int = 3,
    epochs: int | None = None,
    methods: tuple[str, ...] = tuple(ALPHAS),
    out: Path | None = None,
) -> None:
    """Trains, probes and prints a table.

    Args:
        seeds: Runs of each method.
        epochs: Number of epochs of each run. None: those of the recipe.
        methods: Which to compare.
        out: Directory for the runs, whose finished runs are not repeated. None: a
            temporary one.
    """
    recipe = recipes.canvas()
    recipe = dataclasses.replace(recipe, epochs=epochs or recipe.epochs, test_data=None)
    with tempfile.TemporaryDirectory() as temporary:
        runs = out or Path(temporary)
        print("| features | one position | mean | CPU time of a step |")
        print("|---|---|---|---|")
        print(f"| untrained | {_percents([accuracies(_untrained(recipe))])} | |")
        for name in methods:
            config = dataclasses.replace(recipe, alpha=ALPHAS[name])
            found = [accuracies(_trained(config, s, runs)) for s in range(seeds)]
            seconds = f"{1000 * step_seconds(config):.0f} ms"
            print(f"| {name} | {_percents(found)} | {seconds} |", flush=True)


class Accuracies(NamedTuple):
    """Shares of held-out samples that ridge regression classifies right.

    Attributes:
        position: Accuracy on the digits, from one position of the feature map.
        mean: Accuracy on the images, from the mean of the feature map.
    """

    position: float
    mean: float


def accuracies(encoder: Encoder) -> Accuracies:
    """Returns the accuracies of frozen features.

    Args:
        encoder: An encoder whose model has the method `feature_map`.
    """
    model: Any = encoder.model

    @jax.jit
    def maps(images, aspect):
        return model.feature_map(encoder.views.plain(images, aspect))

    train, test = (_features(maps, name) for name in ("canvas", "canvas-test"))
    pairs = zip(train, test, strict=True)
    return Accuracies(*(_accuracy(fit, held_out) for fit, held_out in pairs))


def step_seconds(config: Config) -> float:
    """Returns the CPU time of a training step, which a busy machine changes little."""
    # The epoch's length sets the learning rate only, on which no time depends.
    programs = Programs(config, make_mesh("data=1"), steps_per_epoch=100)
    images = canvases("canvas").pixels[: config.batch]
    batch = images, np.ones(len(images), np.float32)
    state, _ = programs.train(programs.start(), *batch)
    jax.block_until_ready(state)
    began = time.process_time()
    for _ in range(_STEPS):
        state, _ = programs.train(state, *batch)
    jax.block_until_ready(state)
    return (time.process_time() - began) / _STEPS


def _trained(config: Config, seed: int, runs: Path) -> Encoder:
    # With the epochs, so that a short run is not taken for one of the recipe's length.
    out = runs / f"alpha-{config.alpha}-epochs-{config.epochs}-seed-{seed}"
    if finished(out):
        return load_encoder(out)
    run = pretrain(
        dataclasses.replace(config, seed=seed),
        data=canvases("canvas").pixels,
        out=out,
        console=None,
        probe_every=0,
        tensorboard=False,
    )
    return run.encoder


def _untrained(config: Config) -> Encoder:
    programs = Programs(config, make_mesh("data=1"), steps_per_epoch=100)
    return as_encoder(programs, untrained(programs, load_datasets(config).train))


def _features(maps: Callable, name: str) -> tuple[Labeled, Labeled]:
    """Returns the features of the positions with a digit, and of the images."""
    found = canvases(name)
    parts = [
        np.asarray(maps(images, np.ones(len(images), np.float32)))
        for images in np.split(found.pixels, len(found.pixels) // 500)
    ]
    features = np.concatenate(parts)
    classes = found.cells(features.shape[1])
    shown = classes != BACKGROUND
    positions = Labeled(features[shown], classes[shown])
    # The class of the first two digits, which is that of the image.
    return positions, Labeled(features.mean(axis=(1, 2)), found.classes[:, 0])


def _accuracy(fit: Labeled, held_out: Labeled) -> float:
    # The digits are the classes from 0 up to BACKGROUND, so that is their number.
    linear = ridge.fit(fit.features, fit.labels, classes=BACKGROUND).linear
    classes = np.asarray(linear.classes(jnp.asarray(held_out.features)))
    return float(np.mean(classes == held_out.labels))


def _percents(found: list[Accuracies]) -> str:
    """Returns two cells: means in percent, and the range where there are several."""
    cells = []
    for values in 100 * np.array(found).T:
        spread = f" ({values.min():.1f} to {values.max():.1f})"
        cells.append(f"{values.mean():.1f}" + (spread if len(values) > 1 else ""))
    return " | ".join(cells)


if __name__ == "__main__":
    tyro.cli(main)
