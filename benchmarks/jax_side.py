"""The contenders in JAX: this package, plain autodiff, and the bare products."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import vicreg_jax
from benchmarks.sizes import WEIGHTS, Problem
from benchmarks.timing import Call


def ours(z1, z2):
    """The loss of this package."""
    return vicreg_jax.vicreg_loss(z1, z2, *WEIGHTS)


def plain(z1, z2):
    """The paper's equations as they stand, d x d, in float32 like ours."""
    z1, z2 = (z.astype(jnp.float32) for z in (z1, z2))
    v = c = 0.0
    for z in (z1, z2):
        n, d = z.shape
        x = z - z.mean(axis=0)
        product = jnp.matmul(x.T, x, precision="highest") / (n - 1)
        std = jnp.sqrt(jnp.var(z, axis=0, ddof=1) + 1e-4)
        v += jnp.mean(jax.nn.relu(1 - std))
        c += jnp.sum(jnp.where(jnp.eye(d, dtype=bool), 0, product) ** 2) / d
    s = jnp.mean((z1 - z2) ** 2)
    return WEIGHTS[0] * s + WEIGHTS[1] * v + WEIGHTS[2] * c


def with_gradient(loss: Callable) -> Callable:
    """Returns the function that all contenders in JAX are timed in."""
    return jax.value_and_grad(loss, argnums=(0, 1))


def products(z1, z2, *, by_rows: bool):
    """The products no exact gradient can do without: two a view, in the smaller form.

    There is nothing else, neither centring nor sums. What they multiply is float32
    already, whatever the problem's dtype.
    """

    def of(z):
        matmul = partial(jnp.matmul, precision="highest")
        return matmul(matmul(z, z.T), z) if by_rows else matmul(z, matmul(z.T, z))

    return of(z1), of(z2)


def build_loss(loss: Callable, problem: Problem, platform: str) -> Call:
    """Returns a call for value and gradient, compiled; it returns the value."""
    program, views = compiled(with_gradient(loss), problem, platform)

    def call():
        value, gradients = program(*views)
        jax.block_until_ready(gradients)
        return value.block_until_ready()

    return call


def build_products(problem: Problem, platform: str) -> Call:
    """Returns a call for the bare products, compiled; it returns nothing."""
    function = partial(products, by_rows=problem.size.by_rows)
    program, views = compiled(function, problem._replace(dtype="float32"), platform)

    def call():
        jax.block_until_ready(program(*views))

    return call


def compiled(
    function: Callable, problem: Problem, platform: str
) -> tuple[Any, tuple[jax.Array, ...]]:
    """Returns a compiled program and the arrays that it was compiled for."""
    device = jax.devices(platform)[0]
    views = tuple(
        jax.device_put(jnp.asarray(z, problem.dtype), device) for z in problem.views()
    )
    return jax.jit(function).lower(*views).compile(), views


def temporaries(name: str, problem: Problem) -> int | None:
    """Returns the bytes that a compiled program needs beside inputs and results."""
    functions = {
        "ours": with_gradient(ours),
        "plain JAX": with_gradient(plain),
        "floor, JAX": partial(products, by_rows=problem.size.by_rows),
    }
    if name not in functions:
        return None
    if name == "floor, JAX":
        problem = problem._replace(dtype="float32")
    z = jax.ShapeDtypeStruct(problem.size, problem.dtype)
    memory = jax.jit(functions[name]).lower(z, z).compile().memory_analysis()
    return None if memory is None else memory.temp_size_in_bytes
