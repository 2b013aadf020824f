"""The picture of a run: the terms, the probes, and a map of the features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table
from sklearn.manifold import TSNE

from vicreg_jax.pretrain.records import read
from vicreg_jax.pretrain.run_folder import writing

if TYPE_CHECKING:
    from vicreg_jax.probe import Accuracies

_MAPPED = 2000  # points, of which more would hide one another


def table(accuracies: Accuracies, title: str) -> Table:
    """Returns the accuracies as a table to print, in percent."""
    result = Table("features", *next(iter(accuracies.values())), title=title)
    for features, by_probe in accuracies.items():
        result.add_row(features, *(f"{100 * value:.1f}" for value in by_probe.values()))
    return result


def redraw(folder: Path) -> Accuracies:
    """Draws the picture of a finished run again, and returns its accuracies.

    Raises:
        ValueError: there is no finished run.
    """
    if not (folder / "probes.json").exists():
        raise ValueError(f"`run` must be the folder of a finished run, got {folder}")
    accuracies = json.loads((folder / "probes.json").read_text())
    draw(folder, accuracies)
    return accuracies


def draw(folder: Path, accuracies: Accuracies) -> None:
    """Writes report.png, from metrics.jsonl, evaluations.jsonl and features.npz.

    Args:
        folder: of the run.
        accuracies: 0 to 1, by features and by probe; none where images have no labels.
    """
    figure = Figure(figsize=(16, 5), layout="constrained")
    terms, middle, plane = figure.subplots(1, 3)
    _draw_terms(terms, read(folder / "metrics.jsonl"))
    if accuracies:
        _draw_probes(middle, accuracies)
        _draw_map(plane, np.load(folder / "features.npz"))
    else:
        _draw_health(middle, read(folder / "evaluations.jsonl"))
        plane.set_axis_off()
    with writing(folder / "report.png"):
        figure.savefig(folder / "report.png", dpi=110)


def _draw_terms(axes, history):
    steps = [line["step"] for line in history]
    for term in ("invariance", "variance", "covariance"):
        axes.plot(steps, [line[term] for line in history], label=term)
    axes.set(title="Loss terms, unweighted", xlabel="step", yscale="log")
    axes.legend()


def _draw_probes(axes, accuracies):
    width = 0.8 / len(accuracies)
    for offset, (features, by_probe) in enumerate(accuracies.items()):
        positions = np.arange(len(by_probe)) + width * (offset - 1)
        bars = axes.bar(
            positions, [100 * a for a in by_probe.values()], width, label=features
        )
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    probe_names = list(next(iter(accuracies.values())))
    axes.set_xticks(range(len(probe_names)), probe_names)
    axes.set(title="Probes of frozen features", ylabel="on held-out images, %")
    axes.set_ylim(0, 112)
    axes.legend(loc="upper center", ncols=len(accuracies), fontsize=8)


def _draw_health(axes, looks):
    steps = [line["step"] for line in looks]
    axes.plot(steps, [line["effective_rank"] for line in looks])
    axes.set(title="Effective rank of the embeddings", xlabel="step")


def _draw_map(axes, held_out):
    features, labels = held_out["features"][:_MAPPED], held_out["labels"][:_MAPPED]
    neighbours = min(30.0, (len(labels) - 1) / 3)
    plane = TSNE(perplexity=neighbours, random_state=0).fit_transform(features)
    classes = axes.scatter(*plane.T, c=labels, cmap="tab10", s=8)
    axes.legend(*classes.legend_elements(), title="class", fontsize=7, loc="best")
    axes.set(title="Held-out features, t-SNE", xticks=[], yticks=[])
