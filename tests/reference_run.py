"""The run of `processes.start` in this process, and how far rounding may take it."""

from functools import cache
from itertools import islice

import few_digits
import jax
import numpy as np
import rounding
from runs import tiny

from vicreg_jax.pretrain.input import batches, order_hash, to_device
from vicreg_jax.pretrain.mesh import by_rows, make_mesh, whole
from vicreg_jax.pretrain.step import Metrics, Programs

# At the usual rate, differences of 1e-6 become 1e-2 within ten steps, since Adam
# divides small gradients by their size. At this rate they do not grow. Errors of one
# standard deviation, not magnified, gave the same bounds within 20%, and of the norm of
# the gradient a twentieth, since magnified errors move more activations across zero.
RATE = 1e-5
FLAGS = ("--learning-rate", str(RATE))
_UNUSED = {"learning_rate", *Metrics._field_defaults}  # the latter are VICRegL's
_NAMES = [name for name in Metrics._fields if name not in _UNUSED]
_CONFIG = tiny(epochs=3, batch=few_digits.BATCH, learning_rate=RATE)
STEPS = _CONFIG.epochs * few_digits.STEPS_PER_EPOCH
_ENTRIES = _CONFIG.batch * 8 * 8  # of a channel, which a batch norm adds


def trained(programs, params=None, steps=STEPS):
    """Returns the metrics of each step, and the orders of the images.

    Args:
        programs: Programs of the run.
        params: To start with. None: those that the run starts with.
        steps: How many.
    """
    state = programs.start()
    if params is not None:
        params = jax.device_put(params, whole(programs.mesh))
        state = state._replace(params=params)
    metrics, orders = [], []
    for batch in _all_batches(programs.mesh)[:steps]:
        state, found = programs.train(state, batch.images, batch.aspect)
        metrics.append(jax.device_get(found)._asdict())
        orders.append(f"{order_hash(batch.ids):016x}")
    return {name: [line[name] for line in metrics] for name in _NAMES}, orders


@cache
def _all_batches(mesh):
    source = few_digits.datasets().train
    rows = batches(source, batch=_CONFIG.batch, seed=_CONFIG.seed)
    return list(islice(to_device(rows, by_rows(mesh)), STEPS))


def programs(mesh="data=1"):
    """Returns the programs of the run."""
    return Programs(_CONFIG, make_mesh(mesh), few_digits.STEPS_PER_EPOCH)


@cache
def expected():
    """Returns metrics and orders of the run on one device, and bounds of the metrics.

    One bound for all steps of a metric: rounding errors do not grow at this rate.
    """
    on_one = programs()

    def metrics(params):
        found, _ = trained(on_one, params)
        return {name: np.asarray(values) for name, values in found.items()}

    start = jax.device_get(on_one.start().params)
    return *trained(on_one), rounding.of_network(metrics, start, _ENTRIES)


def assert_agrees(lines):
    """Holds the metrics of a run that had `FLAGS` to those of one device."""
    metrics, orders, bounds = expected()
    assert [line["step"] for line in lines] == list(range(len(orders)))
    assert [line["order"] for line in lines] == orders
    found = {name: [line[name] for line in lines] for name in _NAMES}
    errors = {
        name: np.max(np.abs(np.subtract(found[name], metrics[name]))) for name in _NAMES
    }
    print(
        "errors in parts of their bounds:", {n: errors[n] / bounds[n] for n in errors}
    )
    assert all(errors[name] <= bounds[name] for name in _NAMES), (errors, bounds)
