"""The contenders in JAX: this package, plain JAX, and the bare matrix products."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import vicreg_jax
from benchmarks.sizes import WEIGHTS, Problem
from benchmarks.timing import Call
from parity.plain_jax import jax_loss


def ours(z1, z2):
    """Returns the loss of this package."""
    return vicreg_jax.vicreg_loss(z1, z2, *WEIGHTS)


def plain(z1, z2):
    """Returns the loss by the d x d covariance, in float32 like ours."""
    return jax_loss(z1.astype(jnp.float32), z2.astype(jnp.float32), *WEIGHTS)


def with_gradient(loss: Callable) -> Callable:
    """Returns value and gradient of both views, which all JAX contenders compute."""
    return jax.value_and_grad(loss, argnums=(0, 1))


def products(z1, z2, *, gram: bool):
    """Returns the matrix products that every exact gradient needs: two for each view.

    They take the smaller of the two forms. Centering and sums are left out. The inputs
    are float32, whatever the dtype of the problem.
    """

    def of(z):
        # The default of `vicreg_loss`. At another one the floor would be of other
        # products.
        matmul = partial(jnp.matmul, precision="highest")
        return matmul(matmul(z, z.T), z) if gram else matmul(z, matmul(z.T, z))

    return of(z1), of(z2)


def build_loss(loss: Callable, problem: Problem, platform: str) -> Call:
    """Returns a compiled call for value and gradient. It returns the value."""
    program, views = compiled(with_gradient(loss), problem, platform)

    def call():
        value, gradients = program(*views)
        jax.block_until_ready(gradients)
        return value.block_until_ready()

    return call


def build_products(problem: Problem, platform: str) -> Call:
    """Returns a compiled call that computes the bare products."""
    function = partial(products, gram=problem.size.uses_gram)
    program, views = compiled(function, problem._replace(dtype="float32"), platform)

    def call():
        jax.block_until_ready(program(*views))

    return call


def compiled(
    function: Callable, problem: Problem, platform: str
) -> tuple[Any, tuple[jax.Array, ...]]:
    """Returns a compiled program and the arrays to call it with."""
    device = jax.devices(platform)[0]
    views = tuple(
        jax.device_put(jnp.asarray(z, problem.dtype), device) for z in problem.views()
    )
    return jax.jit(function).lower(*views).compile(), views


def temporaries(name: str, problem: Problem) -> int | None:
    """Returns the bytes that XLA plans beyond inputs and results."""
    functions = {
        "ours": with_gradient(ours),
        "plain JAX": with_gradient(plain),
        "floor, JAX": partial(products, gram=problem.size.uses_gram),
    }
    if name not in functions:
        return None
    # As `build_products` runs it.
    if name == "floor, JAX":
        problem = problem._replace(dtype="float32")
    z = jax.ShapeDtypeStruct(problem.size, problem.dtype)
    memory = jax.jit(functions[name]).lower(z, z).compile().memory_analysis()
    return None if memory is None else memory.temp_size_in_bytes
