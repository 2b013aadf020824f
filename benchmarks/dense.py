"""Does VICRegL's local loss help dense prediction? VICReg beside it, on digits.

python -m benchmarks.dense              # three seeds of each, prints a table
python -m benchmarks.dense --seeds 1 --epochs 2

Each run is the recipe `canvas`, whose images show three digits at known places. Frozen
features are probed twice: by ridge regression from each position of the feature map
with a digit to the class of that digit, and by the run's own probe from the mean of the
map to the class that the image shows twice.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import tyro

from vicreg_jax.encoder import Encoder
from vicreg_jax.pretrain import pretrain, recipes
from vicreg_jax.pretrain.config import Config
from vicreg_jax.pretrain.export import as_encoder
from vicreg_jax.pretrain.features import untrained
from vicreg_jax.pretrain.input import load_datasets
from vicreg_jax.pretrain.input.canvas import BACKGROUND, canvases
from vicreg_jax.pretrain.mesh import make_mesh
from vicreg_jax.pretrain.step import Programs
from vicreg_jax.probe import ridge

ALPHAS = {"VICReg": None, "VICRegL, alpha 0.9": 0.9, "VICRegL, alpha 0.75": 0.75}
_STEPS = 8  # that are timed


def main(seeds: int = 3, epochs: int | None = None, out: Path | None = None) -> None:
    """Trains, probes and prints a table.

    Args:
        seeds: runs of each method.
        epochs: of each run. None: those of the recipe.
        out: directory for the runs. None: a temporary one.
    """
    recipe = recipes.canvas()
    recipe = dataclasses.replace(recipe, epochs=epochs or recipe.epochs)
    with tempfile.TemporaryDirectory() as temporary:
        runs = out or Path(temporary)
        start = _untrained(recipe)
        print("| features | position | image | CPU time of a step |\n|---|---|---|---|")
        print(f"| untrained | {_percent([dense_accuracy(start)])} | | |", flush=True)
        for name, alpha in ALPHAS.items():
            config = dataclasses.replace(recipe, alpha=alpha)
            found = [_probed(config, seed, runs) for seed in range(seeds)]
            position, image = zip(*found, strict=True)
            seconds = f"{1000 * step_seconds(config):.0f} ms"
            cells = name, _percent(position), _percent(image), seconds
            print(f"| {' | '.join(cells)} |", flush=True)


def dense_accuracy(encoder: Encoder) -> float:
    """Returns the share of held-out positions with a digit that are classified right.

    Args:
        encoder: an encoder whose model has the method `feature_map`.
    """

    @jax.jit
    def maps(images, aspect):
        return encoder.model.feature_map(encoder.views.plain(images, aspect))

    train, test = (_positions(maps, name) for name in ("canvas", "canvas-test"))
    classifier = ridge.fit(*train, classes=BACKGROUND).linear
    features, classes = test
    return float(np.mean(np.asarray(classifier.classes(features)) == classes))


def step_seconds(config: Config) -> float:
    """Returns the CPU time of a training step, which a busy machine changes little."""
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


def _probed(config: Config, seed: int, runs: Path) -> tuple[float, float]:
    """Returns the accuracies from one position and from the whole image."""
    config = dataclasses.replace(config, seed=seed)
    run = pretrain(
        config,
        out=runs / f"alpha-{config.alpha}-seed-{seed}",
        console=None,
        probe_every=0,
        tensorboard=False,
    )
    probes = run.evaluation["VICReg"] if run.evaluation else {}
    all_labels = [value for name, value in probes.items() if name.startswith("linear")]
    return dense_accuracy(run.encoder), all_labels[-1]


def _untrained(config: Config) -> Encoder:
    programs = Programs(config, make_mesh("data=1"), steps_per_epoch=100)
    return as_encoder(programs, untrained(programs, load_datasets(config).train))


def _positions(maps: Callable, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features of all positions with a digit, and their classes."""
    found = canvases(name)
    parts = [
        np.asarray(maps(images, np.ones(len(images), np.float32)))
        for images in np.split(found.pixels, len(found.pixels) // 500)
    ]
    features = np.concatenate(parts)
    classes = found.cells(features.shape[1])
    shown = classes != BACKGROUND
    return features[shown], classes[shown]


def _percent(values) -> str:
    """Returns the mean in percent, and the range where there are several."""
    percents = 100 * np.array(values)
    spread = f" ({percents.min():.1f} to {percents.max():.1f})"
    return f"{percents.mean():.1f}" + (spread if len(percents) > 1 else "")


if __name__ == "__main__":
    tyro.cli(main)
