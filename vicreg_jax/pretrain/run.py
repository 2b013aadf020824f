"""A run from its datasets to its report."""

from __future__ import annotations

import math
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import grain
import jax
import numpy as np

from vicreg_jax.pretrain import compilation, evaluation, report, run_folder
from vicreg_jax.pretrain import mesh as meshes
from vicreg_jax.pretrain.checkpoints import Checkpoints
from vicreg_jax.pretrain.input import batches, load_datasets, to_device
from vicreg_jax.pretrain.loop import Loop
from vicreg_jax.pretrain.records import Log
from vicreg_jax.pretrain.step import Programs

if TYPE_CHECKING:
    from rich.console import Console

    from vicreg_jax.pretrain.config import Config, Launch
    from vicreg_jax.probe import Accuracies


def run(config: Config, launch: Launch, console: Console) -> Accuracies:
    """Pretrains and probes, or goes on doing so where an earlier process stopped.

    Returns:
        Accuracies, 0 to 1, by features (raw pixels, untrained, VICReg) and by probe;
        none where datasets have no labels.

    Raises:
        UsageError: If a flag does not fit the images, or the folder holds another run.
        FileExistsError: the folder holds a finished run.
        FloatingPointError: the loss is no longer finite.
        Interrupted: as asked; the same call goes on.
    """
    began = time.monotonic()
    mesh = meshes.make_mesh(launch.mesh)
    meshes.check_batch(config.batch, config.accumulate, mesh.size)
    datasets = load_datasets(config)
    host = batches(
        datasets.train,
        batch=config.batch,
        seed=config.seed,
        shard=grain.sharding.ShardByJaxProcess(),
        workers=launch.workers,
        unreadable=config.unreadable,
    )
    programs = Programs(config, mesh, host.order.steps_per_epoch)
    with run_folder.claim(config, launch) as out, compilation.kept_in(out / "compiled"):
        state = _pretrain(programs, launch, datasets, host, out, console, began)
        result = evaluation.evaluate(programs, state, datasets, workers=launch.workers)
        if jax.process_index() == 0:
            _conclude(out, result, datasets.train.classes)
    if host.unreadable:
        names = ", ".join(sorted(host.unreadable)[:20])
        console.print(f"{len(host.unreadable)} datasets could not be read: {names}")
    console.print(f"Everything is in {out}")
    return result.accuracies if result else {}


def _pretrain(programs, launch, datasets, host, out, console, began):
    """Returns the state after the last step."""
    device = to_device(host, meshes.by_rows(programs.mesh))
    checkpoints = Checkpoints(
        out / "checkpoints",
        every=launch.checkpoint_every or _whole_epochs(programs.steps_per_epoch),
        warn=console.print,
    )
    state, first = programs.start(), 0
    restored = checkpoints.restore(state)
    if restored is not None:
        state, first = restored.state, restored.step
        device.set_state(restored.extra["input"])
        console.print(f"Going on after step {first} of the run in {out}")
    log = Log(
        out,
        steps_per_epoch=programs.steps_per_epoch,
        batch=programs.config.batch,
        first=first,
        waited=lambda: device.waited,
        tensorboard=launch.tensorboard,
    )
    started = time.monotonic()
    loop = Loop(
        programs, launch, datasets, host, device, log, checkpoints, console, began
    )
    with closing(host), checkpoints, closing(log):
        state = loop.run(state, first)
    console.print(f"Pretrained in {time.monotonic() - started:.0f} s")
    return state


def _whole_epochs(steps_per_epoch: int) -> int:
    """Returns the steps between checkpoints: an epoch's, or several short epochs'.

    A checkpoint of the mnist recipe takes as long as ten steps, measured on two cores
    (2026-11-25), so that one in 300 steps costs 3%.
    """
    return steps_per_epoch * math.ceil(300 / steps_per_epoch)


def _conclude(
    out: Path, result: evaluation.Evaluation | None, classes: tuple[str, ...]
) -> None:
    """Writes what is drawn, draws it, and last what marks the run as finished."""
    if result is not None:
        with run_folder.writing(out / "features.npz"):
            features, labels = result.held_out
            names = np.array(classes, str)
            np.savez(
                out / "features.npz", features=features, labels=labels, classes=names
            )
    accuracies = result.accuracies if result else {}
    report.draw(out, accuracies)
    run_folder.write_json(out / "probes.json", accuracies)
