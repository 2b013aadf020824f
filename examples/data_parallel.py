"""One data-parallel training step in the three ways that JAX has.

    python examples/data_parallel.py     # 10 s on two cores, which act as eight devices

Model, batch and loss are the same, and the rows are spread over all devices. All ways
and a single device give the same new parameters, up to rounding. Copy one of them:

1. `jit` over a mesh: the loss as on one device, with `axis_name` left None. Start here.
2. `shard_map`: you write the program of one device and name the axis. Differentiate
   outside the map.
3. `pmap`, the older form: differentiate inside the map, then `pmean` the gradients.
"""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

from functools import partial

import jax
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vicreg_jax import VICRegLoss

BATCH, PIXELS, WIDTH, DIM = 64, 100, 128, 256
OPTIMIZER = optax.sgd(0.01)


def initial(key):
    """Returns the parameters of a small network."""
    first, second = jax.random.split(key)
    return {
        "hidden": jax.random.normal(first, (PIXELS, WIDTH)) / PIXELS**0.5,
        "expander": jax.random.normal(second, (WIDTH, DIM)) / WIDTH**0.5,
    }


def embed(params, x):
    """Returns the embeddings of a batch of images."""
    return jax.nn.relu(x @ params["hidden"]) @ params["expander"]


def objective(params, x1, x2, axis_name=None):
    """Returns the loss of the whole batch, the same on every device."""
    loss = VICRegLoss(lambd=25.0, mu=25.0, nu=1.0, axis_name=axis_name)
    return loss(embed(params, x1), embed(params, x2))


def updated(params, gradients):
    """Returns the parameters after one step."""
    updates, _ = OPTIMIZER.update(gradients, OPTIMIZER.init(params), params)
    return optax.apply_updates(params, updates)


@jax.jit
def jit_step(params, x1, x2):
    """1. Only the sharding of the arrays differs from one device."""
    loss, gradients = jax.value_and_grad(objective)(params, x1, x2)
    return loss, updated(params, gradients)


def shard_map_step(mesh):
    """2. The map contains the loss, and is differentiated from outside."""
    mapped = jax.shard_map(
        partial(objective, axis_name="data"),
        mesh=mesh,
        in_specs=(P(), P("data"), P("data")),
        out_specs=P(),
    )

    @jax.jit
    def step(params, x1, x2):
        loss, gradients = jax.value_and_grad(mapped)(params, x1, x2)
        return loss, updated(params, gradients)

    return step


@partial(jax.pmap, axis_name="data", in_axes=(None, 0, 0))
def pmap_step(params, x1, x2):
    """3. Each device has the gradient of its share: average them, never sum them."""
    own = partial(objective, axis_name="data")
    loss, gradients = jax.value_and_grad(own)(params, x1, x2)
    return loss, updated(params, jax.lax.pmean(gradients, "data"))


def main():
    """Prints the loss of each way and the difference of its new parameters.

    Raises:
        SystemExit: If they differ by more than rounding.
    """
    keys = jax.random.split(jax.random.key(0), 3)
    params = initial(keys[0])
    x = jax.random.normal(keys[1], (BATCH, PIXELS))
    x1, x2 = x + 0.3 * jax.random.normal(keys[2], (2, BATCH, PIXELS))
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    rows = jax.device_put((x1, x2), NamedSharding(mesh, P("data")))
    by_device = (a.reshape(jax.device_count(), -1, PIXELS) for a in (x1, x2))
    results = {
        "one device": jit_step(params, x1, x2),
        "jit over a mesh": jit_step(params, *rows),
        "shard_map": shard_map_step(mesh)(params, *rows),
        "pmap": jax.tree.map(lambda a: a[0], pmap_step(params, *by_device)),
    }
    results = {name: jax.device_get(result) for name, result in results.items()}
    _, wanted = results["one device"]
    for name, (loss, new) in results.items():
        apart = max(abs(new[layer] - wanted[layer]).max() for layer in wanted)
        print(f"{name:16} loss {loss:.5f}, new parameters differ by {apart:.1e}")
        if apart > 1e-6:  # they are of order 0.1, and float32
            raise SystemExit(f"{name} disagrees")


if __name__ == "__main__":
    main()
