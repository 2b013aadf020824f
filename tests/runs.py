"""Runs of a few seconds."""

import dataclasses
import io

import jax.numpy as jnp
from rich.console import Console

from vicreg_jax.augment import DigitViews
from vicreg_jax.pretrain import recipes

QUIET = Console(file=io.StringIO())


@dataclasses.dataclass(frozen=True)
class MirroredViews(DigitViews):
    """The images, and their mirror images: a step that compiles in half the time."""

    def pair(self, key, images):
        del key
        return images, jnp.flip(images, axis=2)


def tiny(**changes):
    """Returns a run of a few seconds."""
    small = {"width": 4, "expander": 16, "epochs": 1}
    return dataclasses.replace(recipes.digits(), **(small | changes))
