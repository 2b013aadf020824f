"""The ways to run one loss on eight devices, for the suite and the tests.

Every mode takes the views of the whole batch, puts their rows on devices, and returns
the value and the gradients of the whole views. Where a mode differentiates inside the
map, the views are replicated parameters, and each device looks up its own rows. The
result is then a gradient of parameters, as in training.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

Outcome = tuple[jax.Array, tuple[jax.Array, jax.Array]]
Loss = Callable[..., jax.Array]
"""Called as `loss(z1, z2, where=..., axis_name=...)`."""
Mode = Callable[[Any, Any, Any, Loss], Outcome]

DEVICES = 8
_gradient = partial(jax.value_and_grad, argnums=(0, 1))


def mesh(shape=(DEVICES,), names=("data",), axis_type=AxisType.Auto) -> Mesh:
    """Returns a mesh of the first devices, all axes of one type."""
    # Always given, as `jax.make_mesh` makes Explicit axes by default since JAX 0.9.
    types = (axis_type,) * len(names)
    devices = jax.devices()[: prod(shape)]
    return jax.make_mesh(shape, names, axis_types=types, devices=devices)


def spread(on: Mesh, spec: P, z1, z2, where):
    """Returns the batch on a mesh: views sharded by `spec`, the mask by its rows."""
    specs = (spec, spec, P(spec[0]))
    return tuple(
        None if a is None else jax.device_put(jnp.asarray(a), NamedSharding(on, s))
        for a, s in zip((z1, z2, where), specs, strict=True)
    )


def jit(shape, names, spec, axis_type, z1, z2, where, loss, ambient=False) -> Outcome:
    """Runs one `jit` program over sharded arrays; the compiler places the work."""
    on = mesh(shape, names, axis_type)
    z1, z2, where = spread(on, spec, z1, z2, where)
    step = jax.jit(lambda a, b, where: _gradient(partial(loss, where=where))(a, b))
    if not ambient:
        return step(z1, z2, where)
    with jax.set_mesh(on):
        return step(z1, z2, where)


def outside(shape, names, axes, check_vma, z1, z2, where, loss) -> Outcome:
    """Runs `shard_map`, differentiated from outside."""
    return _outside(mesh(shape, names), P(axes), axes, check_vma, z1, z2, where, loss)


def partly(axis_type, z1, z2, where, loss) -> Outcome:
    """Runs `shard_map` over the rows; `model`, with the features, is left to XLA."""
    on = mesh(_model, _both, axis_type)
    return _outside(on, P("data", "model"), "data", True, z1, z2, where, loss)


def _outside(on, spec, axes, check_vma, z1, z2, where, loss) -> Outcome:
    rows = P(axes)
    masked = () if where is None else (rows,)

    @partial(
        jax.shard_map,
        mesh=on,
        in_specs=(rows, rows, *masked),
        out_specs=P(),
        axis_names={axes} if isinstance(axes, str) else set(axes),
        check_vma=check_vma,
    )
    def mapped(a, b, where=None):
        return loss(a, b, where=where, axis_name=axes)

    arguments = spread(on, spec, z1, z2, where)[: 2 + len(masked)]
    return jax.jit(_gradient(mapped))(*arguments)


def _own_step(loss, axes, views, ids, where=None) -> Outcome:
    """Returns gradients of replicated parameters, averaged over devices."""

    def of_parameters(first, second):
        return loss(first[ids], second[ids], where=where, axis_name=axes)

    def mean(a):
        # Three times a number in half precision needs more bits than it has.
        wide = a.astype(jnp.float32) if a.dtype.itemsize == 2 else a
        return jax.lax.pmean(wide, axes).astype(a.dtype)

    # Each device has the loss of all rows, so a sum would be too large by the number of
    # devices, with and without vma. See `docs/devices.md`.
    return jax.tree.map(mean, _gradient(of_parameters)(*views))


def _accumulated(loss, axes, views, ids, where=None) -> Outcome:
    """Averages two steps in a scan, the second over the same rows reversed."""

    def step(order):
        masks = () if where is None else (where[order],)
        return _own_step(loss, axes, views, ids[order], *masks)

    def body(total, order):
        return jax.tree.map(jnp.add, total, step(order)), None

    order = jnp.arange(len(ids))
    zeros = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(step, order)
    )
    # `scan` refuses a carry that varies over other axes after a step than before. The
    # zeros vary over none, and neither do averages.
    total, _ = jax.lax.scan(body, zeros, jnp.stack([order, order[::-1]]))
    return jax.tree.map(lambda a: a / 2, total)


def inside(
    shape, names, axes, check_vma, z1, z2, where, loss, step=_own_step
) -> Outcome:
    """Runs `shard_map`, differentiated inside; each device looks up its rows."""
    on, rows = mesh(shape, names), P(axes)
    masked = () if where is None else (jnp.asarray(where),)
    mapped = jax.shard_map(
        partial(step, loss, axes),
        mesh=on,
        in_specs=(P(), *(rows,) * (1 + len(masked))),
        out_specs=P(),
        check_vma=check_vma,
    )
    views = (jnp.asarray(z1), jnp.asarray(z2))
    return jax.jit(mapped)(views, jnp.arange(len(views[0])), *masked)


def mapped(transform, shape, axes, z1, z2, where, loss) -> Outcome:
    """Runs `pmap` or jitted `vmap` for each of `axes`, differentiated inside."""
    step = partial(_own_step, loss, axes)
    masked = () if where is None else (jnp.asarray(where),)
    # The innermost axis first, so that the leading axis of the rows gets the first
    # name.
    for axis in (axes,) if isinstance(axes, str) else reversed(axes):
        step = transform(
            step, axis_name=axis, in_axes=(None, *(0,) * (1 + len(masked)))
        )
    if transform is jax.vmap:
        step = jax.jit(step)
    views = (jnp.asarray(z1), jnp.asarray(z2))
    rows = (jnp.arange(len(views[0])), *masked)
    outcomes = step(views, *(a.reshape(*shape, -1) for a in rows))
    # All devices return the same averaged gradients.
    return jax.tree.map(lambda a: a[(0,) * len(shape)], outcomes)


def _checkpointed(z1, z2, where, loss) -> Outcome:
    def recomputed(a, b, where, axis_name):
        return jax.checkpoint(partial(loss, where=where, axis_name=axis_name))(a, b)

    return outside((8,), ("data",), "data", True, z1, z2, where, recomputed)


_one, _model, _grid = (8,), (4, 2), (2, 4)
_data, _both, _pod = ("data",), ("data", "model"), ("outer", "inner")
_auto, _explicit = AxisType.Auto, AxisType.Explicit

MODES: dict[str, Mode] = {
    "jit, auto mesh": partial(jit, _one, _data, P("data"), _auto),
    "jit, auto mesh, set_mesh": partial(
        jit, _one, _data, P("data"), _auto, ambient=True
    ),
    "jit, explicit mesh": partial(jit, _one, _data, P("data"), _explicit),
    "jit, explicit mesh, set_mesh": partial(
        jit, _one, _data, P("data"), _explicit, ambient=True
    ),
    "jit, auto mesh, features over model": partial(
        jit, _model, _both, P("data", "model"), _auto
    ),
    "jit, explicit mesh, features over model": partial(
        jit, _model, _both, P("data", "model"), _explicit
    ),
    "jit, auto mesh, two row axes": partial(jit, _grid, _pod, P(_pod), _auto),
    "jit, explicit mesh, two row axes": partial(jit, _grid, _pod, P(_pod), _explicit),
    "shard_map": partial(outside, _one, _data, "data", True),
    "shard_map, no vma": partial(outside, _one, _data, "data", False),
    "shard_map, inside": partial(inside, _one, _data, "data", True),
    "shard_map, inside, no vma": partial(inside, _one, _data, "data", False),
    "shard_map, model axis": partial(outside, _model, _both, "data", True),
    "shard_map, features over an auto model axis": partial(partly, _auto),
    "shard_map, features over an explicit model axis": partial(partly, _explicit),
    "shard_map, model axis, inside": partial(inside, _model, _both, "data", True),
    "shard_map, two row axes": partial(outside, _grid, _pod, _pod, True),
    "shard_map, two row axes, no vma": partial(outside, _grid, _pod, _pod, False),
    "shard_map, two row axes, inside": partial(inside, (4, 2), _pod, _pod, True),
    "shard_map, scan": partial(inside, _one, _data, "data", True, step=_accumulated),
    "shard_map, checkpoint": _checkpointed,
    "pmap": partial(mapped, jax.pmap, _one, "data"),
    "vmap": partial(mapped, jax.vmap, _one, "data"),
    "vmap, two row axes": partial(mapped, jax.vmap, _grid, _pod),
}
"""Modes by name. They need a multiple of eight rows and an even number of columns."""
