"""The printed report of the suite, and its JSON."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform as machine
import shlex
import statistics
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from parity import upstream
from parity.cases import UPSTREAMS
from parity.checks import Check, Outcome

SHOWN = 10
"""How many failing cases are printed."""
SHOWN_CHECKS = 4
"""How many failing checks of a case are printed in full."""


def surroundings(platform: str) -> dict[str, str]:
    """Returns versions and hardware, which results depend on besides the code."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "torch")}
    devices = f"{jax.device_count()} {jax.devices()[0].device_kind}"
    return {
        "platform": f"{platform}: {devices}",
        "machine": f"{machine.system()} {machine.machine()}, {os.cpu_count()} cores",
        "python": machine.python_version(),
        **versions,
        **{name: upstream.status(name) for name in UPSTREAMS},
    }


def tables(console: Console, outcomes: list[Outcome]) -> None:
    """Prints a table for each section, and why cases were not run."""
    console.print(
        "ours, PyTorch: median distance to the exact result, in units of rounding.\n"
        "of limit: the largest distance of ours as a share of its limit."
    )
    for section in dict.fromkeys(outcome.section for outcome in outcomes):
        console.print(_table(section, [o for o in outcomes if o.section == section]))
    missing = Counter(outcome.not_run for outcome in outcomes if outcome.not_run)
    for reason, count in missing.items():
        console.print(f"not run: {count} cases: {reason}", markup=False)


def _table(section: str, outcomes: list[Outcome]) -> Table:
    counts = {
        "cases": len(outcomes),
        "not run": sum(bool(outcome.not_run) for outcome in outcomes),
        "failed": sum(outcome.failed for outcome in outcomes),
    }
    summary = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    seconds = sum(outcome.seconds for outcome in outcomes)
    table = Table(title=f"{section}: {summary}, {seconds:.0f} s", title_justify="left")
    table.add_column("dtype", no_wrap=True)
    for heading in ("checks", "ours", "PyTorch", "of limit"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("at", overflow="fold")
    checks = [check for outcome in outcomes for check in outcome.checks]
    for dtype in dict.fromkeys(check.dtype for check in checks):
        table.add_row(*_row(dtype, [c for c in checks if c.dtype == dtype]))
    return table


def _row(dtype: str, checks: list[Check]) -> list[str]:
    """Returns a row: median errors in units of rounding, and the worst ratio."""
    # An exact result of 0 has no unit of rounding, and any error there is infinite.
    scaled = [check for check in checks if check.unit] or checks
    worst = max(checks, key=lambda check: check.ratio)
    ours, theirs = (
        # Not the mean, which a single overflow would make infinite.
        statistics.median(check.in_units(getattr(check, side)) for check in scaled)
        for side in ("distance", "their_distance")
    )
    return [
        dtype or "bits",
        str(len(checks)),
        f"{ours:.3g}",
        f"{theirs:.3g}",
        f"{worst.ratio:.2g}",
        f"{worst.task.split('/', 1)[1]} {worst.quantity}",
    ]


def failures(console: Console, outcomes: list[Outcome], options: list[str]) -> None:
    """Prints failing cases, each with the command that runs it alone.

    Args:
        console: To print to.
        outcomes: Outcomes of all tasks.
        options: The command line, without its filter.
    """
    failed = [outcome for outcome in outcomes if outcome.failed]
    for outcome in failed[:SHOWN]:
        console.print(f"\nFAILED {outcome.name}", markup=False, highlight=False)
        worst = sorted(outcome.checks, key=lambda check: -check.ratio)
        failing = [check for check in worst if not check.passed]
        for check in failing[:SHOWN_CHECKS]:
            console.print(described(check), markup=False, highlight=False)
        if len(failing) > SHOWN_CHECKS:
            console.print(f"  and {len(failing) - SHOWN_CHECKS} more quantities")
        if outcome.error:
            console.print(outcome.error, markup=False, highlight=False)
        # Not folded, so that the command can be copied.
        console.print(rerun(outcome.name, options), soft_wrap=True, markup=False)
    if len(failed) > SHOWN:
        console.print(f"\nand {len(failed) - SHOWN} more")


def described(check: Check) -> str:
    """Returns a verdict in words."""
    lines = [
        f"  {check.quantity}, at its largest error:",
        f"    ours    {check.ours!r}",
        f"    PyTorch {check.theirs!r}",
        f"    exact   {check.exact!r}",
        f"  distance: ours {check.distance:.3g}, PyTorch's "
        f"{check.their_distance:.3g}, limit {check.limit:.3g}",
        f"  in units of rounding: ours {check.in_units(check.distance):.3g}, PyTorch's "
        f"{check.in_units(check.their_distance):.3g}",
    ]
    if check.entries:
        lines.append(f"  the error of an entry is {check.entries:.3g} times its limit")
    if not check.reference_agrees:
        lines.append(
            f"  PyTorch's own error is {check.peer_distance:.3g}, but rounding "
            f"explains only {check.peer_limit:.3g}: it computes another loss"
        )
    return "\n".join(lines)


def rerun(name: str, options: list[str]) -> str:
    """Returns the command that runs one task alone."""
    return shlex.join(["python", "-m", "parity", *options, "--filter", name])


def write_json(path: Path, outcomes: list[Outcome], about: dict[str, str]) -> None:
    """Writes all outcomes as JSON. Numbers that are not finite become null."""
    found = [
        {
            **asdict(outcome),
            "failed": outcome.failed,
            "checks": [_plain(check) for check in outcome.checks],
        }
        for outcome in outcomes
    ]
    text = json.dumps({"about": about, "outcomes": found}, indent=1, allow_nan=False)
    path.write_text(text + "\n")


def _plain(check: Check) -> dict:
    fields = asdict(check) | {"ratio": check.ratio, "passed": check.passed}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in fields.items()
    }
