"""The contenders: one list for time and for memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from benchmarks.place import NotAvailable, Place
from benchmarks.sizes import DTYPES, Problem
from benchmarks.timing import Call

OURS, REFERENCE = "ours", "PyTorch reference"
FLOOR, FLOOR_TORCH = "floor, JAX", "floor, PyTorch"
FLOORS = (FLOOR, FLOOR_TORCH)
EAGER = (REFERENCE, "quadra", "lightly", "solo-learn")
"""Uncompiled PyTorch losses, which compute in the dtype of their inputs."""


class Contender(NamedTuple):
    """A loss or a product to measure.

    Attributes:
        name: Name in tables and for `--filter`.
        build: Returns a call that is ready to be timed, from a problem and a place. It
            raises `NotAvailable` where the contender cannot run.
        dtypes: Dtypes that it is measured in.
    """

    name: str
    build: Callable[[Problem, Place], Call]
    dtypes: tuple[str, ...] = DTYPES


def contenders() -> list[Contender]:
    """Returns all contenders, in the order of the tables."""
    return [
        Contender(OURS, partial(_jax, "ours")),
        Contender(REFERENCE, partial(_torch, "reference")),
        Contender("PyTorch in float32", partial(_torch, "raised"), ("bfloat16",)),
        Contender("torch.compile", partial(_torch, "compiled")),
        Contender("quadra", partial(_torch, "quadra")),
        Contender("lightly", partial(_torch, "lightly")),
        Contender("solo-learn", partial(_torch, "solo_learn")),
        Contender("plain JAX", partial(_jax, "plain")),
        Contender(FLOOR, partial(_jax, "products")),
        Contender(FLOOR_TORCH, partial(_torch, "products")),
    ]


# Each framework is imported only where a contender needs it, so that a process that
# measures the memory of one does not hold the other.
def _jax(which: str, problem: Problem, place: Place) -> Call:
    from benchmarks import jax_side

    if which == "products":
        return jax_side.build_products(problem, place.jax)
    return jax_side.build_loss(getattr(jax_side, which), problem, place.jax)


def _torch(which: str, problem: Problem, place: Place) -> Call:
    from benchmarks import torch_side

    if place.torch is None:
        raise NotAvailable("PyTorch sees no such device")
    if which == "products":
        return torch_side.build_products(problem, place.torch)
    loss = getattr(torch_side, which, None) or torch_side.released(which)
    return torch_side.build_loss(loss, problem, place.torch)
