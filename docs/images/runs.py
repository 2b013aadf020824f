"""Draws short runs of `vicreg-pretrain digits`, a healthy one and provoked sick ones.

python docs/images/runs.py    # runs them again, which takes minutes, into docs/curves
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

CURVES = Path(__file__).parents[1] / "curves"
RUNS = {
    "healthy": [],
    "invariance-alone": ["--mu", "0", "--nu", "0"],
    "no-covariance": ["--nu", "0"],
    "weak-variance": ["--mu", "1"],
    "rate-10x": ["--learning-rate", "6e-2"],
    "high-rate": ["--learning-rate", "1"],
    "low-rate": ["--learning-rate", "1e-5"],
}
KEPT = {
    "metrics": ("step", "loss", "invariance", "variance", "covariance", "std"),
    "evaluations": ("step", "k-NN", "effective_rank", "collapsed"),
}


def read(name, kind="metrics"):
    """Returns the columns of a run: lists by name."""
    lines = (CURVES / f"{name}.{kind}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {key: [row[key] for row in rows] for key in rows[0]}


def figure(*names):
    """Returns the curves of runs, one column a run, all on the same axes."""
    canvas, axes = plt.subplots(
        3, len(names), figsize=(3.4 * len(names) + 1, 6.4), sharex=True, sharey="row"
    )
    for name, (terms, rank, accuracy) in zip(names, axes.T.reshape(-1, 3), strict=True):
        curves, checks = read(name), read(name, "evaluations")
        for term in ("invariance", "variance", "covariance"):
            terms.plot(curves["step"], curves[term], label=term)
        terms.set(title=name, yscale="log")
        rank.plot(checks["step"], checks["effective_rank"], "o-", markersize=3)
        accuracy.plot(checks["step"], [100 * a for a in checks["k-NN"]], "o-", ms=3)
        accuracy.set_xlabel("step")
    first = axes.T.reshape(-1, 3)[0]
    # Between whole powers of ten, the ticks need no labels that touch each other.
    low, high = np.log10(first[0].get_ylim())
    first[0].set_ylim(10 ** np.floor(low), 10 ** np.ceil(high))
    for panel, label in zip(
        first, ("terms, unweighted", "effective rank", "k-NN, %"), strict=True
    ):
        panel.set_ylabel(label)
    canvas.legend(*first[0].get_legend_handles_labels(), loc="upper center", ncols=3)
    canvas.tight_layout(rect=(0, 0, 1, 0.95))
    return canvas


def keep(directory, name):
    """Writes the columns that are drawn, with four digits."""
    for kind, columns in KEPT.items():
        path = directory / f"{kind}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [
            {k: float(f"{row[k]:.4g}") for k in columns if k in row} for row in rows
        ]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        (CURVES / f"{name}.{kind}.jsonl").write_text(text)


def main():
    """Runs all of them and keeps their curves."""
    command = [sys.executable, "-m", "vicreg_jax.pretrain", "digits"]
    with tempfile.TemporaryDirectory() as directory:
        for name, flags in RUNS.items():
            out = Path(directory) / name
            # A run that diverges ends with an error, after it has written its curves.
            subprocess.run([*command, "--probe-every", "1", "--out", out, *flags])
            keep(out, name)


if __name__ == "__main__":
    main()
