"""A run that is stopped, looked at, resumed, and extended.

    python examples/stop_resume_extend.py     # 47 s on two cores

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

SETTINGS = {"width": 16, "expander": 64, "epochs": 4, "probe_images": 500}
LAUNCH = {"log_every": 5, "probe_every": 0, "tensorboard": False}


def start_and_stop(out: Path, steps: int):
    """Starts `vicreg-pretrain digits`, and stops it when it has done some steps."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    flags += ["--log-every=5", "--probe-every=0", "--no-tensorboard", f"--out={out}"]
    command = [sys.executable, "-m", "vicreg_jax.pretrain", "digits", *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and done(out) < steps:
        time.sleep(0.05)
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
    start_and_stop(out, steps=11)
    show(Run.open(out))

    # The same settings resume it, from Python or by the same command.
    config = dataclasses.replace(recipes.digits(), **SETTINGS)
    if not Run.open(out).finished:  # a fast machine may be done before it is stopped
        show(pretrain(config, out=out, **LAUNCH))

    # More epochs extend it, also if it is finished. The learning rate rises again.
    longer = dataclasses.replace(config, epochs=6)
    show(pretrain(longer, out=out, **LAUNCH))


if __name__ == "__main__":
    main()
