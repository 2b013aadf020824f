"""The picture of a run: loss terms, probes, and a map of the features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table
from sklearn.manifold import TSNE

from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.records import read
from vicreg_jax.pretrain.run_folder import writing

if TYPE_CHECKING:
    from vicreg_jax.probe import Accuracies

_MAPPED = 2000  # points; more would hide each other
_NAMED = 20  # classes in the legend; colormaps have no more colors to tell apart


def table(accuracies: Accuracies, title: str) -> Table:
    """Returns the accuracies as a table to print, in percent."""
    result = Table("features", *next(iter(accuracies.values())), title=title)
    for features, by_probe in accuracies.items():
        result.add_row(features, *(f"{100 * value:.1f}" for value in by_probe.values()))
    return result


def redraw(run_folder: Path) -> Accuracies:
    """Draws the picture of a finished run again, and returns its accuracies.

    Raises:
        UsageError: If there is no finished run.
    """
    if not (run_folder / "probes.json").exists():
        raise UsageError(
            f"RUN must be the directory of a finished run, got {run_folder}"
        )
    accuracies = json.loads((run_folder / "probes.json").read_text())
    draw(run_folder, accuracies)
    return accuracies


def draw(run_folder: Path, accuracies: Accuracies) -> None:
    """Writes report.png from metrics.jsonl, evaluations.jsonl and features.npz.

    Args:
        run_folder: the directory of the run.
        accuracies: from 0 to 1, by features and by probe; empty without labels.
    """
    figure = Figure(figsize=(16, 5), layout="constrained")
    terms, middle, plane = figure.subplots(1, 3)
    _draw_terms(terms, read(run_folder / "metrics.jsonl"))
    if accuracies:
        _draw_probes(middle, accuracies)
        _draw_map(plane, np.load(run_folder / "features.npz"))
    else:
        _draw_health(middle, read(run_folder / "evaluations.jsonl"))
        plane.set_axis_off()
    with writing(run_folder / "report.png"):
        figure.savefig(run_folder / "report.png", dpi=110)


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


def _draw_health(axes, quick_checks):
    steps = [line["step"] for line in quick_checks]
    axes.plot(steps, [line["effective_rank"] for line in quick_checks])
    axes.set(title="Effective rank of the embeddings", xlabel="step")


def _draw_map(axes, held_out):
    features, labels = held_out["features"][:_MAPPED], held_out["labels"][:_MAPPED]
    perplexity = min(30.0, (len(labels) - 1) / 3)
    plane = TSNE(perplexity=perplexity, random_state=0).fit_transform(features)
    axes.set(title="Held-out features, t-SNE", xticks=[], yticks=[])
    present = np.unique(labels)
    if len(present) > _NAMED:
        axes.scatter(*plane.T, c=labels, cmap="viridis", s=8)
        return
    colors = "tab10" if len(present) <= 10 else "tab20"
    shown = axes.scatter(*plane.T, c=np.searchsorted(present, labels), cmap=colors, s=8)
    names = dict(enumerate(held_out["classes"]))
    axes.legend(
        shown.legend_elements(num=None)[0],
        [names.get(label, str(label)) for label in present.tolist()],
        # Beside the map, where it hides no point.
        loc="upper left",
        bbox_to_anchor=(1, 1),
        fontsize=7,
    )
