"""The plots: time by columns, ratio to the floor, memory by rows, traffic by chips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.contenders import FLOOR, FLOOR_TORCH, OURS, REFERENCE
from benchmarks.results import Section
from benchmarks.sizes import GOALS, Size

# Each name has the same color and marker in all plots.
_STYLES = {
    OURS: ("tab:blue", "o"),
    REFERENCE: ("tab:red", "s"),
    "PyTorch in float32": ("tab:pink", "P"),
    "torch.compile": ("tab:purple", "D"),
    "quadra": ("tab:orange", "^"),
    "lightly": ("tab:olive", "v"),
    "solo-learn": ("tab:brown", "<"),
    "plain JAX": ("tab:green", "x"),
    FLOOR: ("black", "_"),
    FLOOR_TORCH: ("gray", "_"),
}


def draw(directory: Path, sections: Iterable[Section], caption: str) -> list[str]:
    """Writes a PNG for each plot that has records, and returns their names.

    Args:
        directory: To write to.
        sections: Sections of the run.
        caption: Date, versions and machine, below each plot.
    """
    plots: dict[str, tuple[str, Callable[[dict], Any], Callable]] = {
        "time_by_columns.png": ("loss", lambda r: r["seconds"], _time),
        "ratio_to_floor.png": ("loss", _has("over_floor"), _floor),
        "memory_by_batch.png": ("memory", _has("beyond"), _memory),
        "tpu_traffic_by_chips.png": ("tpu", _has("moved_total"), _traffic),
    }
    by_name = {section.name: section.records for section in sections}
    written = []
    for name, (section, drawn, plot) in plots.items():
        records = [record for record in by_name.get(section, []) if drawn(record)]
        if records:
            figure = plot(records)
            figure.text(0.01, 0.005, caption, fontsize=6, color="gray")
            figure.savefig(directory / name, dpi=110)
            written.append(name)
    return written


def _has(field: str) -> Callable[[dict], bool]:
    def drawn(record):
        return record["dtype"] == "float32" and record.get(field) is not None

    return drawn


def _time(records: list[dict]) -> Figure:
    dtypes = list(dict.fromkeys(r["dtype"] for r in records))
    figure, panels = _panels([f"value and gradient, {dtype}" for dtype in dtypes])
    for axes, dtype in zip(panels, dtypes, strict=True):
        here = sorted((r for r in records if r["dtype"] == dtype), key=_columns_rows)
        for name, (color, marker) in _STYLES.items():
            # The sizes are placed in a row, as several have the same columns.
            times = {
                at: r["seconds"][name]
                for at, r in enumerate(here)
                if name in r["seconds"]
            }
            if not times:
                continue
            medians = [found["median"] for found in times.values()]
            below = [found["median"] - found["low"] for found in times.values()]
            above = [found["high"] - found["median"] for found in times.values()]
            axes.errorbar(
                list(times),
                medians,
                [below, above],
                color=color,
                marker=marker,
                label=name,
                linestyle="none",
                markersize=12 if marker == "_" else 6,
            )
        _name_sizes(axes, here)
        axes.set(yscale="log", ylabel="seconds", xlabel="columns (rows below)")
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _floor(records: list[dict]) -> Figure:
    figure, (axes,) = _panels(["time of ours over XLA's bare products, float32"])
    here = sorted(records, key=_columns_rows)
    for at, r in enumerate(here):
        over = r["over_floor"]
        axes.bar(at, over["median"], color="tab:blue", width=0.6)
        axes.plot([at, at], [over["low"], over["high"]], color="black")
        goal = GOALS.get(Size(r["n"], r["d"]))
        if goal:
            axes.plot([at - 0.4, at + 0.4], [goal.over_floor] * 2, color="tab:red")
    axes.axhline(1, color="black", linewidth=0.7)
    # Drawn without a point, for one entry in the legend.
    axes.plot([], [], color="tab:red", label="goal")
    _name_sizes(axes, here)
    axes.set(ylabel="ours / floor", xlabel="columns (rows below)")
    axes.legend()
    return figure


def _memory(records: list[dict]) -> Figure:
    figure, (axes,) = _panels(["peak beyond inputs and gradients, float32"])
    common = _commonest(r["d"] for r in records)
    for name, (color, marker) in _STYLES.items():
        line = sorted(
            (r["n"], r["beyond"] / 2**20)
            for r in records
            if r["name"] == name and r["d"] == common
        )
        if line:
            # A logarithmic axis has no zero.
            rows, peaks = zip(*line, strict=True)
            peaks = [max(peak, 0.25) for peak in peaks]
            axes.plot(rows, peaks, color=color, marker=marker, label=name)
    axes.set(xscale="log", yscale="log", ylabel="MiB")
    axes.set_xlabel(f"rows, at {common} columns")
    _tick(axes, (r["n"] for r in records if r["d"] == common))
    axes.legend(fontsize=8)
    return figure


def _traffic(records: list[dict]) -> Figure:
    generations = list(dict.fromkeys(r["generation"] for r in records))
    figure, panels = _panels([f"TPU {generation}" for generation in generations])
    common = _commonest((r["n"], r["d"]) for r in records)
    for axes, generation in zip(panels, generations, strict=True):
        lines: dict[str, list[tuple[int, float]]] = {}
        for r in records:
            if (r["generation"], r["n"], r["d"]) == (generation, *common):
                point = (r["chips"], r["moved_total"] / 2**20)
                lines.setdefault(r["way"], []).append(point)
        for way, points in lines.items():
            chips, moved = zip(*sorted(points), strict=True)
            axes.plot(chips, moved, marker="o", label=way)
        axes.set(xscale="log", yscale="log", xlabel="chips")
        _tick(axes, (at for points in lines.values() for at, _ in points))
        axes.set_ylabel("MiB moved for each chip")
        axes.legend(fontsize=8)
    figure.suptitle(f"{common[0]}x{common[1]}, float32: compiled, not run")
    return figure


def _panels(titles: list[str]):
    # Leaves room for the caption.
    layout = ConstrainedLayoutEngine(rect=(0, 0.03, 1, 0.97))
    figure = Figure(figsize=(max(8, 6.5 * len(titles)), 5.5), layout=layout)
    panels = figure.subplots(1, len(titles), squeeze=False)[0]
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title)
        axes.grid(axis="y", alpha=0.3)
    return figure, panels


def _commonest(values: Iterable) -> Any:
    return Counter(values).most_common(1)[0][0]


def _columns_rows(record: dict) -> tuple[int, int]:
    return record["d"], record["n"]


def _tick(axes, values: Iterable[int]) -> None:
    """Labels only these values on a logarithmic axis."""
    ticks = sorted(set(values))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    # A logarithmic axis would also label its minor ticks, in between.
    axes.set_xticks([], minor=True)


def _name_sizes(axes, records: list[dict]) -> None:
    names = [f"{r['d']}\n({r['n']})" for r in records]
    axes.set_xticks(range(len(names)), names)
