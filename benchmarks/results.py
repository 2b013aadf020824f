"""The results of a section: records for JSON and plots, tables for people."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table


class Sheet(NamedTuple):
    """A table, to be printed or written as Markdown.

    Attributes:
        title: Line above the table.
        headings: Headings of the columns. The first column has names, the others have
            figures.
        rows: The cells of each row.
        notes: Lines below the table.
    """

    title: str
    headings: list[str]
    rows: list[list[str]]
    notes: list[str] = []


class Section(NamedTuple):
    """The results of one section.

    Attributes:
        name: As on the command line.
        records: All measurements, as plain Python values.
        sheets: Tables of the measurements.
    """

    name: str
    records: list[dict[str, Any]]
    sheets: list[Sheet]


def not_run(name: str, reason: str) -> Section:
    """Returns a section without results, with the reason."""
    return Section(name, [], [Sheet(f"{name}: not run: {reason}", [], [])])


def show(console: Console, section: Section) -> None:
    """Prints a section."""
    for sheet in section.sheets:
        if sheet.headings:
            console.print(_rich(sheet))
        else:
            console.print(sheet.title, markup=False, highlight=False)
        for note in sheet.notes:
            console.print(f"- {note}", markup=False, highlight=False)
        console.print()


def _rich(sheet: Sheet) -> Table:
    table = Table(title=escape(sheet.title), title_justify="left")
    for at, heading in enumerate(sheet.headings):
        table.add_column(heading, justify="right" if at else "left")
    for row in sheet.rows:
        # Rich takes words in square brackets for markup.
        table.add_row(*map(escape, row))
    return table


def markdown(about: dict[str, str], sections: list[Section], plots: list[str]) -> str:
    """Returns all tables as Markdown."""
    blocks = ["; ".join(f"{name}: {value}" for name, value in about.items())]
    for sheet in (sheet for section in sections for sheet in section.sheets):
        blocks.append(f"## {sheet.title}")
        if sheet.headings:
            rule = [":--"] + ["--:"] * (len(sheet.headings) - 1)
            lines = map(_line, [sheet.headings, rule, *sheet.rows])
            blocks.append("\n".join(lines))
        if sheet.notes:
            blocks.append("\n".join(f"- {note}" for note in sheet.notes))
    blocks += [f"![{Path(name).stem}]({name})" for name in plots]
    return "\n\n".join(blocks) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def write_json(path: Path, about: dict[str, str], sections: list[Section]) -> None:
    """Writes all records and tables as JSON. Infinities and NaN become null."""
    records = {section.name: section.records for section in sections}
    # Only the tables say what was left out and why.
    sheets = {
        section.name: [sheet._asdict() for sheet in section.sheets]
        for section in sections
    }
    whole = _finite({"about": about, "records": records, "sheets": sheets})
    path.write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n")


def _finite(value):
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    # JSON has neither NaN nor infinity, and `allow_nan=False` refuses them.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def seconds(value: float) -> str:
    """Returns a time in a suitable unit."""
    size, unit = _unit(value)
    return f"{value / size:.3g} {unit}"


def _unit(value: float) -> tuple[float, str]:
    units = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
    return next((pair for pair in units if value >= pair[0]), units[-1])


def spread(found: dict[str, float]) -> str:
    """Returns median and quartiles of times, in a unit suitable for the median."""
    size, unit = _unit(found["median"])
    median, low, high = (found[key] / size for key in ("median", "low", "high"))
    return f"{median:.3g} ({low:.3g}-{high:.3g}) {unit}"


def mib(value: float) -> str:
    """Returns bytes in MiB."""
    return f"{value / 2**20:.4g} MiB"
