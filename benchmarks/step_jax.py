"""The training step in JAX: the one that ships, and variants of it."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from benchmarks.mirrored import MirroredViews
from benchmarks.timing import Call
from vicreg_jax import VICRegTerms
from vicreg_jax.pretrain.compilation import compiler_options
from vicreg_jax.pretrain.config import Config
from vicreg_jax.pretrain.step import Programs

_EPOCH = 31  # steps; no time depends on it


class WithYnnpack(Programs):
    """The step with jaxlib's default compiler options."""

    @cached_property
    def train(self):
        """See `Programs.train`."""
        return jax.jit(self._train, donate_argnums=0)


class WithoutLoss(Programs):
    """The step with a mean of squares for a loss, to measure the rest of the step."""

    def _terms(self, *embeddings) -> VICRegTerms:
        first, second = embeddings
        zero = jnp.zeros(())
        return VICRegTerms(jnp.mean(first**2 + second**2), zero, zero)


def cpu_mesh() -> Mesh:
    """Returns a mesh of one CPU, where PyTorch's step runs, too."""
    # The job's `make_mesh` takes the first device of JAX's default platform, which is
    # a GPU where there is one.
    devices = jax.devices("cpu")[:1]
    return jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def has_ynnpack() -> bool:
    """Returns whether the step that ships avoids YNNPACK here."""
    return bool(compiler_options(cpu_mesh()))


def build(
    config: Config, *, programs: type[Programs] = Programs, augmented: bool = False
) -> Call:
    """Returns a call that takes one step.

    Args:
        config: Configuration of the run.
        programs: The class whose step is taken.
        augmented: Draws the views in the step, as a run does.
    """
    if not augmented:
        config = dataclasses.replace(config, views=MirroredViews(config.size))
    made = programs(config, cpu_mesh(), _EPOCH)
    shape = config.batch, config.size, config.size, config.channels
    # The time does not depend on what the images show.
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    aspect = jnp.ones(config.batch)
    state = made.start()

    def call():
        nonlocal state
        state, metrics = made.train(state, images, aspect)
        jax.block_until_ready((state, metrics))

    return call
