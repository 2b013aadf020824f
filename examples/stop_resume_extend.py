"""A run that is stopped, looked at, resumed, and extended.

    python examples/stop_resume_extend.py     # 40 s on two cores

The job is started as on a cluster, which stops it with SIGTERM. It then saves its state
and ends with status 75.
"""

import dataclasses
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vicreg_jax.pretrain import Run, pretrain, recipes

SETTINGS = {"width": 8, "expander": 64, "epochs": 20}


def start_and_stop(out: Path, steps: int):
    """Starts `vicreg-pretrain digits`, and stops it when it has done some steps."""
    flags = [f"--{name}={value}" for name, value in SETTINGS.items()]
    command = [sys.executable, "-m", "vicreg_jax.pretrain", "digits", *flags]
    process = subprocess.Popen([*command, "--out", out], stdout=subprocess.DEVNULL)
    while process.poll() is None and done(out) < steps:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    print("ended with status", process.wait())


def done(out: Path):
    """Returns the number of steps so far; a run can be read while it is running."""
    if not (out / "config.json").exists():
        return 0
    return len(Run.open(out).metrics.get("step", ()))


def show(run: Run):
    """Prints where a run stands."""
    metrics = run.metrics
    print(
        f"finished: {run.finished}, {len(metrics['step'])} steps, "
        f"loss {metrics['loss'][0]:.1f} to {metrics['loss'][-1]:.1f}, "
        f"learning rate {metrics['learning_rate'][-1]:.1e}"
    )
    if run.evaluation is not None:
        print(f"k-NN {100 * run.evaluation['VICReg']['k-NN']:.1f}%")


def main():
    """Tells the story in a temporary directory."""
    out = Path(tempfile.mkdtemp()) / "run"
    start_and_stop(out, steps=40)
    show(Run.open(out))

    # The same settings resume it, from Python or by the same command.
    config = dataclasses.replace(recipes.digits(), **SETTINGS)
    show(pretrain(config, out=out))

    # More epochs extend it, also if it is finished. The learning rate rises again.
    longer = dataclasses.replace(config, epochs=30)
    show(pretrain(longer, out=out))


if __name__ == "__main__":
    main()
