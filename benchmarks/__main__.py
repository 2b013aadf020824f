"""The command line: `python -m benchmarks`."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import tyro
from rich.console import Console

from benchmarks import machine, results
from benchmarks.options import Options
from benchmarks.results import Section

_IN_CAPTIONS = "date", "machine", "instruction set", "threads", "jax", "torch", "QUICK"


def main() -> None:
    """Runs the chosen sections, prints the results, and writes them to files."""
    options = tyro.cli(Options, prog="python -m benchmarks")
    threads = machine.start(options.threads or (1 if options.quick else None))
    # Without a terminal Rich assumes 80 columns, which would fold the tables.
    console = Console(width=None if sys.stdout.isatty() else 200)
    about = machine.about(threads)
    if options.quick:
        about["QUICK"] = "a check that everything runs; the figures mean nothing"
    for name, value in about.items():
        console.print(f"{name}: {value}", markup=False, highlight=False)
    sections = []
    for name in options.chosen_sections:
        started = time.monotonic()
        with console.status(name) as status:
            # A file has no line to change: it gets one for each part.
            progress = status.update if console.is_terminal else _dated(console)
            # Imported now, as it may need packages that others do not.
            section = importlib.import_module(f"benchmarks.{name}").run(
                options, progress
            )
        results.show(console, section)
        console.print(f"{name}: {time.monotonic() - started:.0f} s\n", highlight=False)
        sections.append(section)
        if options.out:
            # After each section, so that a later failure loses no results.
            write(options.out, about, sections)


def _dated(console: Console) -> Callable[[str], None]:
    def progress(part: str) -> None:
        console.print(f"{time.strftime('%H:%M:%S')} {part}", highlight=False)

    return progress


def write(out: Path, about: dict[str, str], sections: list[Section]) -> None:
    """Writes JSON, Markdown and plots to a directory."""
    from benchmarks import plots

    out.mkdir(parents=True, exist_ok=True)
    results.write_json(out / "results.json", about, sections)
    caption = "; ".join(
        f"{name} {value}" for name, value in about.items() if name in _IN_CAPTIONS
    )
    names = plots.draw(out, sections, caption)
    (out / "results.md").write_text(results.markdown(about, sections, names))


if __name__ == "__main__":
    main()
