"""What a run prints and writes before its first step."""

from __future__ import annotations

import math
import platform
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from vicreg_jax.pretrain.input import batches, sample
from vicreg_jax.pretrain.input.batches import IN_ORDER
from vicreg_jax.pretrain.printing import print_line
from vicreg_jax.pretrain.run_folder import (
    absolute,
    read_starts,
    write_json,
    writing,
)

if TYPE_CHECKING:
    from vicreg_jax.augment import Views
    from vicreg_jax.pretrain.config import Config
    from vicreg_jax.pretrain.input import Source
    from vicreg_jax.pretrain.loop import Loop
    from vicreg_jax.pretrain.step import State

_SHOWN = 8  # images
_LEAST_SIDE = 96  # pixels of each in the picture
_PACKAGES = ("vicreg_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


def describe(loop: Loop, run: Path) -> None:
    """Prints what is about to run: versions, devices, settings, images and sizes."""
    config, datasets = loop.programs.config, loop.datasets
    parameters = _parameters(loop.programs.state_shapes)
    # Records have no names of classes, and counting them would read all records.
    classes = len(datasets.train.classes)
    labels = "no labels" if datasets.held_out is None else "labeled"
    held_out = f", {len(datasets.held_out)} held out" if datasets.held_out else ""
    for line in (
        f"vicreg_jax {version('vicreg_jax')}, JAX {jax.__version__}, {_devices()}",
        f"Recipe: {loop.launch.recipe or 'none'}",
        f"Images: {len(datasets.train)} to train on{held_out}, "
        + (f"{classes} classes, " if classes else f"{labels}, ")
        + f"{_shape(datasets.train)}, of {config.data}",
        f"Views: {config.views}",
        f"Model: {config.encoder_class or config.encoder}, {parameters}",
        f"Training: {config.epochs} epochs of {loop.programs.steps_per_epoch} steps, "
        f"{config.batch} images in a step",
        f"Directory: {run}",
    ):
        print_line(loop.console, line)


def record(loop: Loop, run: Path) -> None:
    """Adds this start to run.json: versions, devices, command, data, epochs, ..."""
    config, path = loop.programs.config, run / "run.json"
    starts = read_starts(run)
    # A run may be resumed with other versions, devices or epochs.
    starts.append(
        {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "recipe": loop.launch.recipe,
            "epochs": config.epochs,
            "command": shlex.join(sys.argv),
            "data": absolute(config.data),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in _PACKAGES},
            "devices": _devices(),
            "mesh": dict(loop.programs.mesh.shape),
            "processes": jax.process_count(),
        }
    )
    write_json(path, starts)


def draw_views(source: Source, config: Config, run: Path) -> None:
    """Writes views.png: some images in the first row, and below them two views of each.

    Nothing is written for views that are not images.
    """
    few = sample(source, _SHOWN)
    # The same images twice, in the same order: what the views are made from, which may
    # be crops, and whole images for the first row.
    cropped, whole = (
        next(batches(few, batch=len(few), seed=config.seed, crops=crops, **IN_ORDER))
        for crops in (config.crops, ())
    )
    if not whole.where.any():
        return
    images = np.asarray(whole.images)[whole.where]
    inputs = jax.tree.map(lambda rows: rows[cropped.where], cropped.images)
    # It runs once, and compiles in half the time without optimization.
    options = {"xla_backend_optimization_level": 0}
    draw = jax.jit(
        config.views.pair,
        compiler_options=options if jax.default_backend() == "cpu" else {},
    )
    drawn = draw(jax.random.key(config.seed), inputs, whole.aspect[whole.where])
    pair = np.stack([np.asarray(view) for view in drawn])
    if pair.ndim != 5 or not {images.shape[-1], pair.shape[-1]} <= {1, 3}:
        return
    pixels = _pixels(config.views, pair)
    side = max(_LEAST_SIDE, *pair.shape[2:4])
    rows = [
        np.hstack([_cell(image, side) for image in row]) for row in (images, *pixels)
    ]
    with writing(run / "views.png"):
        PIL.Image.fromarray(np.vstack(rows)).save(run / "views.png")


def _pixels(views: Views, pair: np.ndarray) -> np.ndarray:
    """Returns the pixels of views, from 0 to 255."""
    unnormalized = getattr(views, "unnormalized", None)
    if callable(unnormalized):
        unit = np.asarray(unnormalized(jnp.asarray(pair)))
    else:
        # Normalized in a way that only they know, so all of them have one scale.
        least, most = pair.min(), pair.max()
        unit = (pair - least) / max(most - least, 1e-6)
    return np.rint(255 * np.clip(unit, 0, 1)).astype(np.uint8)


def _cell(image: np.ndarray, side: int) -> np.ndarray:
    color = np.broadcast_to(image, (*image.shape[:2], 3))
    # By the nearest pixel, so that the pixels of small views can be seen.
    resized = PIL.Image.fromarray(np.ascontiguousarray(color)).resize(
        (side, side), PIL.Image.Resampling.NEAREST
    )
    return np.pad(np.asarray(resized), [(1, 1), (1, 1), (0, 0)], constant_values=255)


def _devices() -> str:
    first = jax.devices()[0]
    hosts = jax.process_count()
    several = f" of {hosts} processes" if hosts > 1 else ""
    return f"{jax.device_count()} {first.platform} ({first.device_kind}){several}"


def _shape(source: Source) -> str:
    height, width, channels = source.shape
    return f"{height}x{width}, {'RGB' if channels == 3 else f'{channels} channel'}"


def _parameters(state: State) -> str:
    encoder, whole = (
        sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part))
        for part in (state.params["encoder"], state.params)
    )
    return f"{encoder:,} parameters, {whole - encoder:,} more in the expander"
