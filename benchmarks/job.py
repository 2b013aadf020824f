"""The job section: a whole run of `vicreg-pretrain`, and its time outside the steps."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.options import Options
from benchmarks.results import Section, Sheet
from vicreg_jax.pretrain import recipes

_QUICK = (
    *("--width", "4", "--expander", "16", "--epochs", "1", "--log-every", "4"),
    *("--probe-images", "100", "--no-tensorboard"),
)
_PATIENCE = 600  # seconds to the first step, after which it will not come
_GOAL = 0.05  # share of the time that is not training steps


def run(options: Options, progress) -> Section:
    """Measures two starts of one run, and one whole run.

    Args:
        options: The parsed command line.
        progress: Called with a description of each part.
    """
    # --quick only shows that everything runs, for which the digits are enough.
    recipe = "digits" if options.quick else "mnist"
    batch = recipes.RECIPES[recipe]().batch
    command = [sys.executable, "-m", "vicreg_jax.pretrain", recipe]
    command += _QUICK if options.quick else ()
    with tempfile.TemporaryDirectory() as directory:
        progress("job: starts")
        starts = [_start(command, Path(directory, "starts")) for _ in range(2)]
        progress("job: whole")
        started = time.monotonic()
        whole = Path(directory, "whole")
        _finish(_job(command, whole), whole, (0,))
        record = _shares(whole, batch)
        record["seconds"] = time.monotonic() - started
    record |= {"recipe": recipe, "first_start": starts[0], "second_start": starts[1]}
    return Section("job", [record], [_sheet(record)])


def _start(command: list[str], out: Path) -> float:
    """Returns the seconds until the first step is logged, and stops the run there."""
    metrics = out / "metrics.jsonl"
    # The second start appends to what the first one wrote.
    before = _lines(metrics)
    started = time.monotonic()
    # The default logs only every few steps, and the first line is waited for.
    process = _job([*command, "--log-every", "1"], out)
    while _lines(metrics) <= before and process.poll() is None:
        if time.monotonic() - started > _PATIENCE:
            process.kill()
            process.wait()
            raise RuntimeError(f"no step in {_PATIENCE} s: {_last_errors(out)}")
        time.sleep(0.02)
    seconds = time.monotonic() - started
    process.send_signal(signal.SIGTERM)
    # 75: stopped by the signal after its state was saved. 0: it had ended before.
    _finish(process, out, (75, 0))
    return seconds


def _job(command: list[str], out: Path) -> subprocess.Popen:
    # Not a pipe, which nobody reads meanwhile: once it is full, the run would wait.
    with _errors(out).open("w") as errors:
        return subprocess.Popen(
            [*command, "--out", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            # Another compilation cache would hide the effect of the run's own.
            env={k: v for k, v in os.environ.items() if "COMPILATION_CACHE" not in k},
        )


def _finish(process: subprocess.Popen, out: Path, statuses: tuple[int, ...]) -> None:
    status = process.wait()
    if status not in statuses:
        raise RuntimeError(f"exit status {status}: {_last_errors(out)}")


def _errors(out: Path) -> Path:
    # Beside the run's directory, which the run makes itself.
    return out.with_suffix(".err")


def _last_errors(out: Path) -> str:
    return _errors(out).read_text(errors="replace")[-300:]


def _lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def _shares(out: Path, batch: int) -> dict:
    """Returns the median step, and the share of the time outside such steps.

    Each logged speed is the mean of a few steps, including what happens between them.
    Most of them include no checkpoint and no evaluation, so the median is that of a
    step alone.
    """
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    known = [line for line in lines if "images_per_second" in line]
    steps = [batch / line["images_per_second"] for line in known]
    waiting = [s * line["waiting"] for s, line in zip(steps, known, strict=True)]
    median, total = statistics.median(steps), sum(steps)
    return {
        "step": median,
        "pretraining": total,
        "beside": 1 - len(steps) * median / total,
        "waiting": sum(waiting) / total,
    }


def _sheet(record: dict) -> Sheet:
    met = "met" if record["beside"] <= _GOAL else "NOT MET"
    rows = [
        ["start to first step", f"{record['first_start']:.1f} s"],
        ["second start of the same run", f"{record['second_start']:.1f} s"],
        ["whole run, with probes and picture", f"{record['seconds']:.0f} s"],
        ["its steps, with everything between them", f"{record['pretraining']:.0f} s"],
        ["median step", f"{1000 * record['step']:.1f} ms"],
        ["share of that time outside the steps", f"{100 * record['beside']:.1f}%"],
        ["share of that time waiting for images", f"{100 * record['waiting']:.1f}%"],
    ]
    return Sheet(
        f"vicreg-pretrain {record['recipe']}",
        ["what", "measured"],
        rows,
        [
            "a start is a new process, imports included; the second start reads the "
            "programs that the first one compiled from the run's directory",
            "outside the steps: checkpoints, evaluations, logs, waiting: 1 - steps x "
            f"median / time; goal at most {100 * _GOAL:.0f}%: {met}",
        ],
    )
