"""Section "reproducibility": the same seed gives the same bits.

Each task runs twice in this process, and once more in a new process that compiles all
programs again. A single different bit is a failure. On a GPU two new processes are
compared, both with `SAME_KERNELS`. Injected faults have no effect on this section.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from parity import experiments, platforms, processes
from parity.cases import Case, Level
from parity.checks import Check, NotRun, Task
from parity.ddp_process import save
from parity.ours import PACKAGE, Ours, outcome, rounded

SECONDS = 300
# On a GPU, XLA times several kernels for each product and convolution and takes the
# fastest. The timings, and so the kernels and last digits, differ between processes.
SAME_KERNELS = "--xla_gpu_exclude_nondeterministic_ops=true"
Arrays = dict[str, np.ndarray]


def values() -> Arrays:
    """Returns terms, totals and gradients by both matrix products, in two dtypes."""
    found = {}
    for n, d in ((24, 64), (64, 24)):
        for dtype in ("float32", "bfloat16"):
            case = Case("normal", n, d, dtype)
            views = [rounded(z, dtype) for z in case.views()]
            for name, value in outcome(PACKAGE, case, views)._asdict().items():
                found[f"{case.name} {name}"] = np.asarray(value)
    return found


def training() -> Arrays:
    """Returns the results of training with AdamW and with LARS, in float32."""
    found = {}
    for optimizer in ("adamw", "lars"):
        run = experiments.expander(24, 16, 64, optimizer, "float32").ours(PACKAGE)
        found |= {f"{optimizer} {name}": value for name, value in run.items()}
    return found


def pretraining() -> Arrays:
    """Returns the terms of each step and the accuracies of a short pretraining job."""
    try:
        from rich.console import Console

        from vicreg_jax.pretrain import recipes
        from vicreg_jax.pretrain.config import Launch
        from vicreg_jax.pretrain.run import run
    except ImportError as missing:
        raise NotRun(f"needs the extra pretrain: {missing}") from None
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "run"
        small = {"epochs": 1, "width": 8, "expander": 64}
        config = dataclasses.replace(recipes.digits(), **small)
        launch = Launch(out=out, tensorboard=False, probe_every=0)
        accuracies = run(config, launch, Console(file=io.StringIO()))
        lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        steps = [[line[term] for term in TERMS] for line in lines]
    probes = [[*by_probe.values()] for by_probe in accuracies.values()]
    return {"terms": np.array(steps), "accuracies": np.array(probes)}


TERMS = ("invariance", "variance", "covariance")
WORK: dict[str, tuple[Level, Callable[[], Arrays]]] = {
    "values": (Level.QUICK, values),
    "training": (Level.QUICK, training),
    "pretraining": (Level.FULL, pretraining),
}


def tasks(level: Level, ours: Ours, platform: str = "cpu") -> Iterator[Task]:
    """Yields the section's tasks."""
    del ours
    for name, (needed, _) in WORK.items():
        if needed <= level:
            yield Task(f"reproducibility/{name}", partial(check, name, platform))


def check(name: str, platform: str) -> list[Check]:
    """Returns the verdicts on a second run here, and on one in another process.

    Raises:
        NotRun: A package that the task needs is not installed.
    """
    _, work = WORK[name]
    first = work()
    verdicts = [_check(name, "again", work(), first)]
    if platform != "tpu":  # a TPU serves one process at a time
        if platform == "gpu":
            first = _elsewhere(name, platform)
        elsewhere = _elsewhere(name, platform)
        verdicts.append(_check(name, "another process", elsewhere, first))
    return verdicts


def _elsewhere(name: str, platform: str) -> Arrays:
    environment = {}
    if platform == "gpu":
        flags = f"{os.environ.get('XLA_FLAGS', '')} {SAME_KERNELS}"
        environment["XLA_FLAGS"] = flags.strip()  # a blank would be a file's name
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "found.npz"
        command = ["parity.reproducibility", name, str(path), platform]
        processes.run([command], Path(directory), SECONDS, **environment)
        with np.load(path) as found:
            return dict(found)


def _check(name: str, quantity: str, got: Arrays, first: Arrays) -> Check:
    """Returns the verdict on whether all bits equal those of the first run."""
    if got.keys() != first.keys():
        raise RuntimeError(f"names differ: {sorted(got.keys() ^ first.keys())}")
    pairs = [(got[key].ravel(), first[key].ravel()) for key in first]
    one, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
    # Bits, since a NaN does not equal itself, and -0 equals 0.
    differ = one.view(np.uint64) != other.view(np.uint64)
    worst = int(np.argmax(differ))
    return Check(
        task=f"reproducibility/{name}",
        quantity=quantity,
        ours=float(one[worst]),
        theirs=float(other[worst]),
        exact=float(other[worst]),
        unit=1.0,
        distance=float(np.count_nonzero(differ)),
        their_distance=0.0,
        limit=0.0,
    )


def main(name: str, path: str, platform: str) -> None:
    """Runs a task and writes its results."""
    platforms.start(platform)
    save(Path(path), WORK[name][1]())


if __name__ == "__main__":
    main(*sys.argv[1:])
