"""Runs of a few seconds."""

import dataclasses
import hashlib
import io
import signal

import jax
import numpy as np
from rich.console import Console

from benchmarks.mirrored import MirroredViews
from vicreg_jax.pretrain import recipes, records, run_folder
from vicreg_jax.pretrain.checkpoints import Checkpoints
from vicreg_jax.pretrain.export import newest, write_encoder
from vicreg_jax.pretrain.mesh import make_mesh
from vicreg_jax.pretrain.step import Programs

QUIET = Console(file=io.StringIO())
_SPEEDS = {"images_per_second", "waiting", "tflops_per_device", "mfu"}

# Compiles in half the time of the views of the digits recipe.
MIRRORED = MirroredViews(size=8)


class InterruptsRun(io.StringIO):
    """Tells the run to stop once it reports its first step."""

    def write(self, text):
        if "First step" in text:
            signal.raise_signal(signal.SIGTERM)
        return super().write(text)


def tiny(**changes):
    """Returns a run of a few seconds."""
    small = {"width": 4, "expander": 16, "epochs": 1}
    return dataclasses.replace(recipes.digits(), **(small | changes))


def begun(out, config, images):
    """Leaves a run before its first step in a directory, and its encoder in a file.

    Args:
        out: The directory, which is made.
        config: Configuration of the run.
        images: How many it trains on.
    """
    out.mkdir()
    run_folder.write_json(out / "config.json", run_folder.contents(config, images))
    programs = Programs(config, make_mesh("data=1"), images // config.batch)
    state = programs.start()
    with Checkpoints(out / "checkpoints") as store:
        store.save(0, state, wait=True)
    write_encoder(out, programs, state)


def log(run, *, first=0, tensorboard=False):
    """Returns the log of a run of two steps an epoch."""
    return records.Log(
        run,
        steps_per_epoch=2,
        batch=8,
        first=first,
        waited=lambda: 0.0,
        tensorboard=tensorboard,
    )


def seen(out):
    """Returns the metrics of each step, without speeds."""
    lines = records.read(out / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in _SPEEDS} for line in lines]


def arrays(path):
    """Returns the arrays of an .npz file by name."""
    with np.load(path) as file:
        return dict(file)


def checksum(out):
    """Returns a checksum of the final state, of network and optimizer."""
    with jax.numpy_dtype_promotion("standard"):
        _, state = newest(out)
    assert state.step == len(seen(out))
    bits = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        bits.update(np.asarray(leaf).tobytes())
    return bits.hexdigest()


def traced(directory):
    """Returns the numbers of the steps in the one trace of a directory."""
    (path,) = directory.rglob("*.xplane.pb")
    return sorted(
        value
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
        for name, value in event.stats
        if name == "step_num"
    )
