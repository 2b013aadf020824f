"""The picture of a run: the terms, the probes, and a map of the features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table
from sklearn.manifold import TSNE

if TYPE_CHECKING:
    from vicreg_jax.probe import Accuracies, Labelled


def table(accuracies: Accuracies, title: str) -> Table:
    """Returns the accuracies as a table to print, in percent."""
    result = Table("features", *next(iter(accuracies.values())), title=title)
    for features, by_probe in accuracies.items():
        result.add_row(features, *(f"{100 * value:.1f}" for value in by_probe.values()))
    return result


def draw(
    path: Path,
    history: list[dict[str, float]],
    accuracies: Accuracies,
    held_out: Labelled,
) -> None:
    """Writes the picture of a run as a PNG file.

    Args:
        path: of the file.
        history: a line a step, with the three terms.
        accuracies: 0 to 1, by features and by probe.
        held_out: features to map to two dimensions, at least 6.
    """
    figure = Figure(figsize=(16, 5), layout="constrained")
    terms, bars, plane = figure.subplots(1, 3)
    _draw_terms(terms, history)
    _draw_probes(bars, accuracies)
    _draw_map(plane, held_out)
    figure.savefig(path, dpi=110)


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
    axes.set(title="Probes of frozen features", ylabel="held-out accuracy, %")
    axes.set_ylim(0, 112)
    axes.legend(loc="upper center", ncols=len(accuracies), fontsize=8)


def _draw_map(axes, held_out):
    neighbours = min(30.0, (len(held_out.labels) - 1) / 3)
    plane = TSNE(perplexity=neighbours, random_state=0).fit_transform(held_out.features)
    classes = axes.scatter(*plane.T, c=held_out.labels, cmap="tab10", s=8)
    axes.legend(*classes.legend_elements(), title="class", fontsize=7, loc="best")
    axes.set(title="Held-out features, t-SNE", xticks=[], yticks=[])
