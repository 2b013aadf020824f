"""A Flax NNX network with batch norm, trained on eight devices in three ways.

    python examples/nnx_devices.py     # CPU: two cores that act as eight devices

Batch norm computes statistics of its own, so it must share them over devices as the
loss does, or each way would train another network. Under `jit` over sharded arrays it
does so by itself. Inside `shard_map` and `pmap` give its layers the same `axis_name` as
the loss. All three ways print the same loss and reach the same parameters, up to
rounding.
"""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vicreg_jax import VICRegLoss
from vicreg_jax.nn import Expander

BATCH, PIXELS, DIM, STEPS = 64, 100, 256, 3
OPTIMIZER = optax.sgd(0.01)


class Network(nnx.Module):
    """An encoder of one layer, and the expander."""

    def __init__(self, axis_name=None, *, rngs):
        self.hidden = nnx.Linear(PIXELS, 64, rngs=rngs)
        self.norm = nnx.BatchNorm(64, axis_name=axis_name, rngs=rngs)
        self.expander = Expander(64, DIM, axis_name=axis_name, rngs=rngs)

    def __call__(self, x):
        """Returns the embeddings of one view."""
        return self.expander(nnx.relu(self.norm(self.hidden(x))))


def start(axis_name=None):
    """Returns the network's definition, its parameters and its statistics."""
    return nnx.split(Network(axis_name, rngs=nnx.Rngs(0)), nnx.Param, nnx.BatchStat)


def objective(params, stats, x1, x2, graph, axis_name=None):
    """Returns the loss of the whole batch, and the new batch-norm statistics."""
    # With copy=True the merged network does not share the variables of `params`, which
    # belong to the transformation around this function.
    model = nnx.merge(graph, params, stats, copy=True)
    loss = VICRegLoss(lambd=25.0, mu=25.0, nu=1.0, axis_name=axis_name)
    value = loss(model(x1), model(x2))
    return value, nnx.state(model, nnx.BatchStat)


def updated(params, gradients):
    """Returns the parameters after one step."""
    updates, _ = OPTIMIZER.update(gradients, OPTIMIZER.init(params), params)
    return optax.apply_updates(params, updates)


def jit_step(mesh):
    """Returns a step under `jit`: the sharding of the arrays is all it needs."""
    graph, params, stats = start()
    rows = NamedSharding(mesh, P("data"))

    @partial(jax.jit, in_shardings=(None, None, rows, rows))
    def step(params, stats, x1, x2):
        (value, stats), gradients = jax.value_and_grad(objective, has_aux=True)(
            params, stats, x1, x2, graph
        )
        return updated(params, gradients), stats, value

    return step, params, stats


def shard_map_step(mesh):
    """Returns a step that differentiates the mapped objective, from outside."""
    graph, params, stats = start("data")
    mapped = jax.shard_map(
        partial(objective, graph=graph, axis_name="data"),
        mesh=mesh,
        in_specs=(P(), P(), P("data"), P("data")),
        out_specs=P(),
    )

    @jax.jit
    def step(params, stats, x1, x2):
        (value, stats), gradients = jax.value_and_grad(mapped, has_aux=True)(
            params, stats, x1, x2
        )
        return updated(params, gradients), stats, value

    return step, params, stats


def pmap_step(mesh):
    """Returns a step that differentiates inside the map and averages gradients."""
    graph, params, stats = start("data")

    @partial(jax.pmap, axis_name="data", in_axes=(None, None, 0, 0), out_axes=None)
    def on_each(params, stats, x1, x2):
        (value, stats), gradients = jax.value_and_grad(objective, has_aux=True)(
            params, stats, x1, x2, graph, "data"
        )
        gradients = jax.lax.pmean(gradients, "data")
        return updated(params, gradients), stats, value

    def step(params, stats, x1, x2):
        x1, x2 = (x.reshape(mesh.size, -1, PIXELS) for x in (x1, x2))
        return on_each(params, stats, x1, x2)

    return step, params, stats


def main():
    """Trains a few steps in each way and compares them."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    views = jax.random.normal(jax.random.key(1), (STEPS, 2, BATCH, PIXELS))
    reference = None
    for make in (jit_step, shard_map_step, pmap_step):
        step, params, stats = make(mesh)
        value = jnp.nan
        for x1, x2 in views:
            params, stats, value = step(params, stats, x1, x2)
        found = jax.device_get(nnx.to_pure_dict(params))
        reference = found if reference is None else reference
        off = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), found, reference)
        largest = max(map(float, jax.tree.leaves(off)))
        print(f"{make.__name__:15} loss {float(value):.4f}, parameters {largest:.0e}")


if __name__ == "__main__":
    main()
