"""Runs of a few seconds."""

import dataclasses
import io

from rich.console import Console

from benchmarks.mirrored import MirroredViews
from vicreg_jax.pretrain import recipes
from vicreg_jax.pretrain.records import Log

QUIET = Console(file=io.StringIO())


# Compiles in half the time of the views of the digits recipe.
MIRRORED = MirroredViews(size=8)


def tiny(**changes):
    """Returns a run of a few seconds."""
    small = {"width": 4, "expander": 16, "epochs": 1}
    return dataclasses.replace(recipes.digits(), **(small | changes))


def log(run, *, first=0, tensorboard=False):
    """Returns the log of a run of two steps an epoch."""
    return Log(
        run,
        steps_per_epoch=2,
        batch=8,
        first=first,
        waited=lambda: 0.0,
        tensorboard=tensorboard,
    )
