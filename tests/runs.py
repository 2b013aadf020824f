"""Runs of a few seconds."""

import dataclasses
import io

from rich.console import Console

from vicreg_jax.pretrain import recipes

QUIET = Console(file=io.StringIO())


def tiny(**changes):
    """Returns a run of a few seconds."""
    small = {"width": 4, "expander": 16, "epochs": 1}
    return dataclasses.replace(recipes.digits(), **(small | changes))
