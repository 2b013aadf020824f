"""A run, from its datasets to its report."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import grain
import jax
import numpy as np

from vicreg_jax.pretrain import compilation, evaluation, report, run_folder, start
from vicreg_jax.pretrain import mesh as meshes
from vicreg_jax.pretrain.arguments import check_step
from vicreg_jax.pretrain.checkpoints import Checkpoints
from vicreg_jax.pretrain.export import write_encoder
from vicreg_jax.pretrain.init import Weights, initialized, load_init
from vicreg_jax.pretrain.input import batches, load_datasets, to_device
from vicreg_jax.pretrain.loop import Loop
from vicreg_jax.pretrain.profile import Profile
from vicreg_jax.pretrain.records import Log
from vicreg_jax.pretrain.step import Programs

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from vicreg_jax.pretrain.config import Config, Launch
    from vicreg_jax.pretrain.input import Source
    from vicreg_jax.pretrain.network import EncoderFactory
    from vicreg_jax.pretrain.step import State
    from vicreg_jax.probe import Accuracies


def run(
    config: Config,
    launch: Launch,
    console: Console,
    *,
    source: Source | None = None,
    own_encoder: EncoderFactory | None = None,
) -> Accuracies:
    """Pretrains and evaluates, or continues where an earlier process stopped.

    With more epochs than the run in the run folder has, it extends that run.

    Args:
        config: The configuration of the run.
        launch: Where and how to carry it out.
        console: Where to print.
        source: The training images. None: they are opened.
        own_encoder: Makes the encoder, if it was given in Python.

    Returns:
        Accuracies from 0 to 1 by features (raw pixels, untrained, VICReg) and by probe.
        Empty if the datasets have no labels.

    Raises:
        UsageError: If a flag does not fit the images, or the run folder holds a run
            with another configuration.
        FileExistsError: If the run folder holds a finished run.
        FloatingPointError: If the loss, a gradient or a parameter is not finite.
        Interrupted: If it was asked to stop. The same call continues.
    """
    started = time.monotonic()
    mesh = meshes.make_mesh(launch.mesh)
    meshes.check_batch(config.batch, config.accumulate, mesh.size)
    datasets = load_datasets(config, source)
    train_iterator = to_device(
        batches(
            datasets.train,
            batch=config.batch,
            seed=config.seed,
            shard=grain.sharding.ShardByJaxProcess(),
            crops=config.crops,
            workers=launch.workers,
            unreadable=config.unreadable,
        ),
        meshes.by_rows(mesh),
    )
    steps_per_epoch = train_iterator.order.steps_per_epoch
    programs = Programs(config, mesh, steps_per_epoch, own_encoder=own_encoder)
    profiled = launch.profiled(config.epochs * steps_per_epoch)
    loop = Loop(programs, launch, datasets, train_iterator, console, started)
    check_step(programs, datasets.train.shape)
    # A resumed run does not need them.
    resumes = run_folder.has_checkpoint(launch.out or run_folder.choose(config))
    weights = None if resumes else load_init(programs)
    images, notify = len(datasets.train), console.print
    claim = run_folder.claim(config, launch, images=images, notify=notify)
    with claim as out, compilation.kept_in(out / "compiled"):
        with closing(train_iterator):
            state = _pretrain(loop, out, profiled, weights)
        if jax.process_index() == 0:
            write_encoder(out, programs, state)
        result = evaluation.evaluate(programs, state, datasets, workers=launch.workers)
        if jax.process_index() == 0:
            _conclude(out, result, datasets.train.classes)
    unreadable = train_iterator.unreadable.union(result.unreadable if result else ())
    if unreadable:
        console.print(evaluation.unreadable_summary(unreadable))
    console.print(f"Everything is in {out}", soft_wrap=True)
    if result and config.evaluation == "k-NN":
        console.print(
            "The paper's other evaluations are two more commands:\n"
            f"  vicreg-pretrain linear {out}\n"
            f"  vicreg-pretrain finetune {out} --labels 1%",
            soft_wrap=True,
        )
    return result.accuracies if result else {}


def _pretrain(loop: Loop, out: Path, profiled: range, weights: Weights | None) -> State:
    """Returns the state after the last step."""
    programs, console = loop.programs, loop.console
    state = programs.start()
    start.describe(programs, state, loop.datasets, out, console, loop.launch.recipe)
    if jax.process_index() == 0:
        start.record(programs.config, programs.mesh, out, loop.launch.recipe)

    def begin(state):
        if jax.process_index() == 0:
            start.draw_views(loop.datasets.train, programs.config, out)
        return initialized(programs, state, weights)

    began = time.monotonic()
    state = trained(loop, out, state, profiled, begin)
    console.print(f"Pretrained in {time.monotonic() - began:.0f} s")
    return state


def trained(
    loop: Loop,
    out: Path,
    state: State,
    profiled: range,
    begin: Callable[[State], State],
) -> State:
    """Returns the state after the last step of a new or a resumed run.

    Args:
        loop: The training loop.
        out: The run folder.
        state: The state to start from.
        profiled: The steps to trace.
        begin: Called with this state if there is no checkpoint. It returns the state
            of step 0.
    """
    programs, console, first = loop.programs, loop.console, 0
    with Checkpoints(out / "checkpoints", warn=console.print) as checkpoints:
        restored = checkpoints.restore(state)
        if restored is not None:
            first, state = restored
            loop.train_iterator.seek(first)
            rate = np.asarray(programs.rate(first)).item()
            console.print(
                f"Going on after step {first}, at a learning rate of {rate:.2g}",
                soft_wrap=True,
            )
        else:
            state = begin(state)
        log = Log(
            out,
            first=first,
            batch=programs.config.batch,
            steps_per_epoch=programs.steps_per_epoch,
            waited=lambda: loop.train_iterator.waited,
            tensorboard=loop.launch.tensorboard,
        )
        with closing(log), Profile(profiled, out / "profile") as profile:
            return loop.run(state, first, checkpoints, log, profile)


def _conclude(
    out: Path, result: evaluation.Evaluation | None, classes: tuple[str, ...]
) -> None:
    """Writes the features, the report and, last, what marks the run as finished."""
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
