"""The command line: `python -m parity`."""

from __future__ import annotations

import itertools
import sys
import time

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from parity import picture, platforms, report, suite
from parity.checks import Outcome, Task
from parity.faults import FAULTS
from parity.options import Options
from parity.ours import PACKAGE

PASSED, FAILED, BROKEN = 0, 1, 2


def main() -> None:
    """Runs the chosen cases and exits with the status of the result."""
    try:
        options = tyro.cli(Options, prog="python -m parity")
        platform = platforms.start(options.platform)
    except (ValueError, RuntimeError) as error:
        print(f"parity: {error}", file=sys.stderr)
        sys.exit(BROKEN)
    # Without a terminal Rich assumes 80 columns, which would fold the tables.
    console = Console(width=None if sys.stdout.isatty() else 120)
    about = report.surroundings(platform)
    for name, value in about.items():
        console.print(f"{name}: {value}", markup=False, highlight=False)
    ours = FAULTS[options.inject].ours if options.inject else PACKAGE
    tasks = suite.tasks(options.level, ours, platform)
    outcomes = run(suite.chosen(tasks, options.filter), console)
    report.tables(console, outcomes)
    report.failures(console, outcomes, options.without_filter)
    if options.json:
        report.write_json(options.json, outcomes, about)
    if options.png:
        picture.draw(options.png, outcomes)
    code = verdict(outcomes)
    console.print(conclusion(code, outcomes, options))
    sys.exit(code)


def run(tasks: list[Task], console: Console) -> list[Outcome]:
    """Runs the tasks and returns their outcomes.

    A terminal shows a progress bar, and anything else a line for each section.
    """
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    # `suite.tasks` returns section after section, on which `groupby` relies.
    sections = itertools.groupby(tasks, lambda task: Outcome(task.name).section)
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(tasks))
        outcomes = []
        for section, its_tasks in sections:
            if not console.is_terminal:
                console.print(f"{time.strftime('%H:%M:%S')} {section}", highlight=False)
            for task in its_tasks:
                progress.update(bar, description=task.name)
                outcomes.append(suite.run(task))
                progress.advance(bar)
    return outcomes


def verdict(outcomes: list[Outcome]) -> int:
    """Returns the exit status: 0 if something was compared and everything passed."""
    checks = [check for outcome in outcomes for check in outcome.checks]
    if not all(check.passed for check in checks):
        return FAILED
    # A failed comparison outweighs an error: it says more about the package.
    broken = any(outcome.error for outcome in outcomes)
    return BROKEN if broken or not checks else PASSED


def conclusion(code: int, outcomes: list[Outcome], options: Options) -> str:
    """Returns the last line of the output."""
    if options.inject:
        section = FAULTS[options.inject].section
        # Other sections may catch it as well. A task that raised an error does not
        # count.
        caught = {o.section for o in outcomes if any(not c.passed for c in o.checks)}
        if not caught:
            return f"{options.inject} was not caught; {section} should have caught it"
        return f"{options.inject} was caught by {', '.join(sorted(caught))}"
    if not any(outcome.checks for outcome in outcomes):
        return "nothing was compared"
    return ("passed", "FAILED", "an error occurred")[code]


if __name__ == "__main__":
    main()
