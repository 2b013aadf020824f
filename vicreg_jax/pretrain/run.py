"""A run, from its datasets to its report."""

from __future__ import annotations

import shlex
import time
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from vicreg_jax.pretrain import (
    compilation,
    evaluation,
    processes,
    report,
    run_folder,
    start,
)
from vicreg_jax.pretrain import mesh as meshes
from vicreg_jax.pretrain.arguments import check_step
from vicreg_jax.pretrain.checkpoints import Checkpoints
from vicreg_jax.pretrain.export import write_encoder
from vicreg_jax.pretrain.init_weights import Weights, initialized, load_init
from vicreg_jax.pretrain.input import load_datasets
from vicreg_jax.pretrain.input.device import on_mesh
from vicreg_jax.pretrain.loop import Loop
from vicreg_jax.pretrain.printing import print_line
from vicreg_jax.pretrain.profile import Profile
from vicreg_jax.pretrain.records import Log
from vicreg_jax.pretrain.step import Programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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

    It raises what `vicreg_jax.pretrain.pretrain` raises.

    Args:
        config: The configuration of the run.
        launch: Where and how to carry it out.
        console: Where to print.
        source: The training images. None: they are opened.
        own_encoder: Makes the encoder, if it was given in Python.

    Returns:
        Accuracies from 0 to 1 by features (raw pixels, untrained, VICReg) and by probe.
        Empty if the datasets have no labels.
    """
    started = time.monotonic()
    mesh = meshes.make_mesh(launch.mesh)
    # Before the images are opened, which may take long.
    meshes.check_batch(config.batch, config.accumulate, mesh.size)
    datasets = load_datasets(config, source)
    train_iterator = on_mesh(config, datasets.train, mesh, workers=launch.workers)
    steps_per_epoch = train_iterator.order.steps_per_epoch
    programs = Programs(config, mesh, steps_per_epoch, own_encoder=own_encoder)
    profiled = launch.profiled(config.epochs * steps_per_epoch)
    loop = Loop(programs, launch, datasets, train_iterator, console, started, profiled)
    # Traced before anything is written, so that a step that fails leaves no directory.
    check_step(programs, datasets.train.shape)
    # Also before anything is written. A resumed run does not need them.
    resumes = run_folder.has_checkpoint(run_folder.choose(config, launch))
    weights = None if resumes else load_init(programs)
    with claimed(loop) as out:
        # Ends its workers before the evaluation starts others.
        with closing(train_iterator):
            state = _pretrain(loop, out, weights)
        # Before the evaluation, which may fail on an unreadable image.
        if jax.process_index() == 0:
            write_encoder(out, programs, state)
        result = evaluation.evaluate(programs, state, datasets, workers=launch.workers)
        # Each process knows the training images that it has read itself.
        unreadable = processes.union(train_iterator.unreadable)
        unreadable.update(result.unreadable if result else ())
        classes = datasets.train.classes
        processes.in_first(lambda: _conclude(out, result, classes), "end")
    if unreadable:
        print_line(console, evaluation.unreadable_summary(unreadable))
    print_line(console, f"Everything is in {out}")
    if result and config.evaluation == "k-NN":
        typed = shlex.quote(str(out))
        print_line(
            console,
            "The paper's other evaluations are two more commands:\n"
            f"  vicreg-pretrain linear {typed}\n"
            f"  vicreg-pretrain finetune {typed} --labels 1%",
        )
    return result.accuracies if result else {}


@contextmanager
def claimed(loop: Loop) -> Iterator[Path]:
    """Claims the run's directory, and keeps compiled programs in it."""
    claim = run_folder.claim(
        loop.programs.config,
        loop.launch,
        images=len(loop.datasets.train),
        notify=partial(print_line, loop.console),
    )
    with claim as out, compilation.kept_in(out / "compiled"):
        yield out


def _pretrain(loop: Loop, out: Path, weights: Weights | None) -> State:
    """Returns the state after the last step."""
    programs = loop.programs

    def begin():
        state = programs.start()
        train = loop.datasets.train
        processes.in_first(
            lambda: start.draw_views(train, programs.config, out), "views"
        )
        # Where all checkpoints are damaged, the weights are not loaded yet.
        return initialized(programs, state, weights or load_init(programs))

    start.describe(loop, out)
    began = time.monotonic()
    state = trained(loop, out, begin)
    loop.console.print(f"Pretrained in {time.monotonic() - began:.0f} s")
    return state


def trained(loop: Loop, out: Path, begin: Callable[[], State]) -> State:
    """Returns the state after the last step of a new or a resumed run.

    Args:
        loop: The training loop.
        out: The directory of the run.
        begin: Called if there is no checkpoint to restore. It returns the state of
            step 0.
    """
    programs, console, first = loop.programs, loop.console, 0
    if jax.process_index() == 0:
        start.record(loop, out)
    warn = partial(print_line, console)
    with Checkpoints(out / "checkpoints", warn=warn) as checkpoints:
        # From shapes, because an initial state would be computed only to be replaced.
        restored = checkpoints.restore(programs.state_shapes)
        if restored is not None:
            first, state = restored
            # The order of the images is a function of seed and step, so the checkpoint
            # has no state of the input.
            loop.train_iterator.seek(first)
            rate = np.asarray(programs.rate(first)).item()
            print_line(
                console,
                f"Going on after step {first}, at a learning rate of {rate:.2g}",
            )
        else:
            state = begin()
        # After the restore, because the log first removes the lines of all steps that
        # follow the checkpoint. They are repeated.
        log = Log(
            out,
            first=first,
            batch=programs.config.batch,
            steps_per_epoch=programs.steps_per_epoch,
            waited=lambda: loop.train_iterator.waited,
            tensorboard=loop.launch.tensorboard,
        )
        with closing(log), Profile(loop.profiled, out / "profile") as profile:
            return loop.run(state, first, checkpoints, log, profile)


def _conclude(
    out: Path, result: evaluation.Evaluation | None, classes: tuple[str, ...]
) -> None:
    """Writes the features, the report and, last, what marks the run as finished."""
    if result is not None:
        with run_folder.writing(out / "features.npz"):
            features, labels = result.held_out
            # NumPy would make an array of floats of no classes.
            names = np.array(classes, str)
            np.savez(
                out / "features.npz", features=features, labels=labels, classes=names
            )
    accuracies = result.accuracies if result else {}
    report.draw(out, accuracies)
    run_folder.write_json(out / "probes.json", accuracies)
