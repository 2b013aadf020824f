"""Section "ddp": training on two devices, compared with PyTorch DDP.

PyTorch runs `ddp_process` twice, over Gloo on the loopback, with a gather that has a
gradient. Ours runs on a mesh of two devices; gradients are taken inside `jax.shard_map`
and averaged, as DDP averages them. Both start from the same weights and see the same
batches. The limits are those of float64 in `training`. The network has no batch norm,
since DDP takes its statistics in each process separately.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
import optax
import torch
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from parity import ddp_process, processes, training_torch
from parity.cases import Level
from parity.checks import Check, NotRun, Task
from parity.comparison import Arrays, Reference, compared, largest_distances
from parity.experiments import draw_batches
from parity.oracle import WEIGHTS
from parity.ours import Ours, enabled
from parity.roundings import DRAWS, Roundings
from parity.training_torch import MOMENTUM, schedule
from parity.values import UNITS

# The first step has a learning rate of 0.
STEPS, PEAK, INPUTS = 9, 1e-2, 12
WORLD, SECONDS = 2, 120
# Rows of the global batch, and width: by the n x n product and by the d x d one.
_SIZES = ((16, 48), (64, 16))


def tasks(level: Level, ours: Ours, platform: str = "cpu") -> Iterator[Task]:
    """Yields the section's tasks, with and without `shard_map`'s `check_vma`."""
    for rows, width in _SIZES:
        for checked in (True, False):
            vma = "" if checked else "-no_check_vma"
            name = f"ddp/sgd-{rows}x{width}-float64{vma}"
            yield Task(name, partial(check, name, rows, width, checked, ours, platform))


def check(
    task: str, rows: int, width: int, checked: bool, ours: Ours, platform: str
) -> list[Check]:
    """Returns the verdicts on the parameters after all steps.

    Raises:
        NotRun: There are fewer than two devices, or they have no float64.
    """
    if platform == "tpu":
        raise NotRun("a TPU has no float64")
    if jax.device_count() < WORLD:
        raise NotRun("needs two devices")
    reference, got = _reference(rows, width), _ours(rows, width, checked, ours)
    # DDP must be as near to PyTorch in one process, or its gather is wrong.
    return compared(task, got, reference, "float64", peer_limits=reference.limits)


def _start(rows: int, width: int) -> torch.nn.Sequential:
    torch.manual_seed(rows)
    return ddp_process.perceptron(INPUTS, width)


def _setup(rows: int, width: int) -> Arrays:
    named = _start(rows, width).named_parameters()
    weights = {name: p.detach().numpy() for name, p in named}
    batches = draw_batches(rows, INPUTS, STEPS)
    rates = schedule(PEAK, STEPS, warmup_steps=2)
    return weights | {"batches": batches, "rates": rates}


# Both values of `checked`, and all faults, share one run of the two processes.
@cache
def _reference(rows: int, width: int) -> Reference:
    """Returns the parameters by DDP and by one process, and the limits."""
    setup = _setup(rows, width)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        ddp_process.save(directory / "setup.npz", setup)
        commands = [
            ["parity.ddp_process", str(rank), str(WORLD), name] for rank in range(WORLD)
        ]
        # By default Gloo looks up the machine's name, which may lead to another
        # interface.
        processes.run(commands, directory, SECONDS, GLOO_SOCKET_IFNAME=_loopback())
        with np.load(directory / "parameters.npz") as found:
            theirs = dict(found)
    alone, unit = _alone(rows, width), UNITS["float64"]
    disturbed = [_alone(rows, width, Roundings(unit, seed)) for seed in range(DRAWS)]
    return Reference(theirs, alone, largest_distances(alone, disturbed))


def _loopback() -> str:
    # `lo` on Linux, `lo0` on macOS.
    names = [name for _, name in socket.if_nameindex()]
    return next(name for name in names if name.startswith("lo"))


def _alone(rows: int, width: int, roundings: Roundings | None = None) -> Arrays:
    setup, network = _setup(rows, width), _start(rows, width)
    batches, rates = setup["batches"], setup["rates"]
    run = training_torch.train(
        network, batches, "sgd", rates, "float64", roundings=roundings
    )
    return run.parameters


def _ours(rows: int, width: int, checked: bool, ours: Ours) -> Arrays:
    setup = _setup(rows, width)
    mesh = jax.make_mesh((WORLD,), ("data",), devices=jax.devices()[:WORLD])
    with enabled("float64"):
        rates = jax.numpy.asarray(setup.pop("rates"))
        shares = NamedSharding(mesh, P(None, None, "data"))
        batches = jax.device_put(setup.pop("batches"), shares)
        steps = optax.sgd(lambda step: rates[step], momentum=MOMENTUM)
        train = jax.shard_map(
            partial(_train, ours, steps),
            mesh=mesh,
            in_specs=(P(), shares.spec),
            out_specs=P(),
            check_vma=checked,
        )
        return jax.device_get(jax.jit(train)(setup, batches))


def _train(ours, steps, parameters, batches):
    def network(p, x):
        hidden = jax.nn.relu(_linear(x, p["0.weight"], p["0.bias"]))
        return _linear(hidden, p["2.weight"], p["2.bias"])

    def loss(p, views):
        z1, z2 = (network(p, view) for view in views)
        return ours.loss(z1, z2, *WEIGHTS, axis_name="data")

    def step(carry, views):
        parameters, memory = carry
        # A mean and not a sum, with and without `check_vma`; see `docs/devices.md`.
        gradients = jax.lax.pmean(jax.grad(loss)(parameters, views), "data")
        updates, memory = steps.update(gradients, memory, parameters)
        return (optax.apply_updates(parameters, updates), memory), None

    carry = (parameters, steps.init(parameters))
    (parameters, _), _ = jax.lax.scan(step, carry, batches)
    return parameters


def _linear(x, weight, bias):
    return jax.numpy.matmul(x, weight.T, precision="highest") + bias
