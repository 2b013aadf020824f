"""The picture of a run: error against size, ours beside PyTorch's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from parity.cases import DTYPES
from parity.checks import Check, Outcome

_ROWS = {"total": "value of the loss", "dz1": "gradient of a view"}
# The factors keep the markers of the frameworks apart on the logarithmic axis.
_SIDES = {
    "this package": ("distance", "o", 1 / 1.06),
    "PyTorch": ("their_distance", "x", 1.06),
}


def draw(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Writes a PNG with a panel for each dtype, of values and of gradients.

    Args:
        path: Path of the file.
        outcomes: Outcomes of all tasks. Only those of the section "values" are drawn.
    """
    checks = [c for o in outcomes if o.section == "values" for c in o.checks]
    figure = Figure(figsize=(15, 7), layout="constrained")
    panels = figure.subplots(len(_ROWS), len(DTYPES), sharex=True, squeeze=False)
    for row, quantity in zip(panels, _ROWS, strict=True):
        for axes, dtype in zip(row, DTYPES, strict=True):
            here = [c for c in checks if (c.quantity, c.dtype) == (quantity, dtype)]
            _panel(axes, here, f"{dtype}: {_ROWS[quantity]}")
    for axes in panels[-1]:
        axes.set_xlabel("entries of a view")
    for axes in panels[:, 0]:
        axes.set_ylabel("error, in units of rounding")
    figure.suptitle("Distance to the float64 oracle; overflows are not drawn")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.savefig(path, dpi=110)


def _panel(axes, checks: list[Check], title: str) -> None:
    for label, (side, marker, apart) in _SIDES.items():
        errors = [check.in_units(getattr(check, side)) for check in checks]
        sizes = [check.size * apart for check in checks]
        axes.scatter(sizes, errors, 16, marker=marker, alpha=0.6, label=label)
    axes.set(title=title, xscale="log")
    # Many results are exact, and a logarithmic axis has no zero.
    axes.set_yscale("symlog", linthresh=0.1)
    axes.yaxis.get_major_locator().set_params(numticks=6)
    axes.set_ylim(bottom=-0.02, top=3 * axes.get_ylim()[1])
    axes.axhline(1, color="gray", linewidth=0.5)
