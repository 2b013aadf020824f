"""The picture of a run: loss terms, probes, and a map of the features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from vicreg_jax.pretrain.classifier_result import result, top1
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.records import read
from vicreg_jax.pretrain.run_folder import writing

if TYPE_CHECKING:
    from collections.abc import Callable

    from vicreg_jax.probe import Accuracies

_MAPPED = 2000  # points, drawn at random; more would hide each other
_NAMED = 20  # classes in the legend; colormaps have no more colors to tell apart


def table(accuracies: Accuracies, title: str) -> Table:
    """Returns the accuracies as a table to print, in percent."""
    result = Table("features", *next(iter(accuracies.values())), title=title)
    for features, by_probe in accuracies.items():
        result.add_row(features, *(f"{100 * value:.1f}" for value in by_probe.values()))
    return result


def redraw(run_folder: Path) -> Accuracies:
    """Draws the picture of a running, stopped or finished run from what it has so far.

    The run is of pretraining or of a classifier.

    Returns:
        Its accuracies, empty if it is not finished or has no labels.

    Raises:
        UsageError: If there is no run, or it has no metrics yet.
    """
    if not (run_folder / "config.json").exists():
        raise UsageError(f"RUN must be the directory of a run, got {run_folder}")
    if not read(run_folder / "metrics.jsonl"):
        raise UsageError(f"RUN must have metrics, got {run_folder}, which has none yet")
    probes = run_folder / "probes.json"
    accuracies = json.loads(probes.read_text()) if probes.exists() else {}
    draw(run_folder, accuracies)
    return accuracies


def draw(run_folder: Path, accuracies: Accuracies) -> None:
    """Writes report.png from metrics.jsonl, evaluations.jsonl and features.npz.

    It shows the loss terms, and probes and a map of the features; or, without
    accuracies, the quick checks. Of a classifier it shows the loss, and the tests.

    Args:
        run_folder: The directory of the run.
        accuracies: From 0 to 1, by features and by probe; empty without labels, or if
            the run is not finished.
    """
    from matplotlib.figure import Figure

    panels = _panels(run_folder, accuracies)
    # Without pyplot, which would keep the figure in memory.
    figure = Figure(figsize=(16 / 3 * len(panels), 5), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, (draw_panel, content) in zip(axes, panels, strict=True):
        draw_panel(panel, content)
    with writing(run_folder / "report.png"):
        figure.savefig(run_folder / "report.png", dpi=110)


def _panels(run_folder: Path, accuracies: Accuracies) -> list[tuple[Callable, Any]]:
    """Returns a function for each panel, and what it draws."""
    panels: list[tuple[Callable, Any]]
    history = read(run_folder / "metrics.jsonl")
    quick_checks = read(run_folder / "evaluations.jsonl")
    if "accuracy" in history[0]:  # of a classifier
        panels = [(_draw_loss, history)]
        return [*panels, (_draw_heads, quick_checks)] if quick_checks else panels
    panels = [(_draw_terms, history)]
    if accuracies:
        with np.load(run_folder / "features.npz") as file:
            features = dict(file)
        return [*panels, (_draw_probes, accuracies), (_draw_map, features)]
    if quick_checks:
        panels += [(_draw_rank, quick_checks), (_draw_covariance, quick_checks)]
    if quick_checks and "k-NN" in quick_checks[0]:
        panels.append((_draw_knn, quick_checks))
    return panels


def _draw_terms(axes, history):
    steps = [line["step"] for line in history]
    for number, term in enumerate(("invariance", "variance", "covariance")):
        color = f"C{number}"
        axes.plot(steps, [line[term] for line in history], color, label=term)
        if (local := f"local_{term}") in history[0]:
            values = [line[local] for line in history]
            axes.plot(steps, values, color, ls=":", label=local.replace("_", " "))
    axes.set(title="Loss terms of the views, unweighted", xlabel="step", yscale="log")
    _legend_below(axes, columns=3)


def _draw_loss(axes, history):
    _plot(axes, history, "loss", "-")
    axes.set(title="Cross-entropy, mean of the heads", xlabel="step")


def _draw_heads(axes, tests):
    epochs = [line["epoch"] for line in tests]
    for head in result(tests):
        axes.plot(epochs, [100 * line[top1(head)] for line in tests], "o-", label=head)
    axes.set(title="Top-1 of each head", xlabel="epoch")
    axes.set_ylabel("on held-out images, %")
    _legend_below(axes, columns=3)


def _draw_probes(axes, accuracies):
    width = 0.8 / len(accuracies)
    for offset, (features, by_probe) in enumerate(accuracies.items()):
        positions = np.arange(len(by_probe)) + width * (
            offset - (len(accuracies) - 1) / 2
        )
        bars = axes.bar(
            positions, [100 * a for a in by_probe.values()], width, label=features
        )
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    probe_names = list(next(iter(accuracies.values())))
    axes.set_xticks(range(len(probe_names)), probe_names)
    axes.set(title="Probes of frozen features", ylabel="on held-out images, %")
    # Leaves room for the legend above bars of 100%.
    axes.set_ylim(0, 112)
    axes.legend(loc="upper center", ncols=len(accuracies), fontsize=8)


def _draw_rank(axes, quick_checks):
    _plot(axes, quick_checks, "effective_rank")
    axes.set(title="Effective rank of the embeddings", xlabel="step")


def _draw_covariance(axes, quick_checks):
    _plot(axes, quick_checks, "covariance", label="covariance")
    _plot(axes, quick_checks, "covariance_floor", "--", label="lowest possible")
    axes.set(title="Covariance of both views and its floor", xlabel="step")
    _legend_below(axes, columns=2)


def _draw_knn(axes, quick_checks):
    axes.plot(
        [line["step"] for line in quick_checks],
        [100 * line["k-NN"] for line in quick_checks],
        "o-",
    )
    axes.set(title="k-NN probe", xlabel="step", ylabel="on held-out images, %")


def _legend_below(axes, columns):
    # Inside the axes it would hide a part of the curves.
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=columns)


def _plot(axes, lines, name, style="o-", **options):
    steps = [line["step"] for line in lines]
    axes.plot(steps, [line[name] for line in lines], style, **options)


def _draw_map(axes, held_out):
    from sklearn.manifold import TSNE

    features, labels = held_out["features"], held_out["labels"]
    if len(labels) > _MAPPED:
        # The images may be sorted by class.
        chosen = np.random.default_rng(0).choice(len(labels), _MAPPED, replace=False)
        features, labels = features[chosen], labels[chosen]
    # scikit-learn refuses a perplexity of as many as there are points.
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
