"""The command line: `python -m mutation`."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import tyro

from mutation import report, trial
from mutation.mutants import Mutant, mutants
from mutation.plan import TESTS


@dataclass(frozen=True)
class Options:
    """Runs the quick tests on one fault in the core at a time.

    Args:
        files: Modules to change.
        sample: How many mutants to draw from those of the files; None runs all.
        seed: Seed of the draw.
        jobs: Mutants at a time.
        mutant: Run only these, named FILE:LINE:NUMBER, and keep what pytest printed.
        list: Print the mutants and run nothing.
        logs: Directory for what pytest prints; the default deletes it.
    """

    files: tuple[str, ...] = tuple(TESTS)
    sample: int | None = None
    seed: int = 0
    jobs: int = 1
    mutant: tuple[str, ...] = ()
    list: bool = False
    logs: Path | None = None


def main() -> None:
    """Runs the chosen mutants; exits with 1 if any survives that is not equivalent."""
    options = tyro.cli(Options, prog="python -m mutation")
    chosen = _chosen(options)
    if options.list:
        print("\n".join(map(report.difference, chosen)))
        return
    with tempfile.TemporaryDirectory(prefix="mutation-") as scratch:
        logs = options.logs or Path(scratch)
        logs.mkdir(parents=True, exist_ok=True)
        trial.prepare(os.environ.get("VICREG_JAX_TEST_CACHE", f"{scratch}/cache"))
        verdicts = dict(_tried(chosen, options.jobs, logs))
    survivors = [m for m, verdict in verdicts.items() if verdict == report.SURVIVED]
    print(*map(report.difference, survivors), sep="\n")
    print(report.table(verdicts, [f for f in TESTS if f in _files(chosen)]))
    sys.exit(1 if survivors else 0)


def _chosen(options: Options) -> list[Mutant]:
    """Returns the mutants that the command line asks for."""
    unknown = [file for file in options.files if file not in TESTS]
    if unknown:
        sys.exit(f"mutation: --files must be of {', '.join(TESTS)}, got {unknown}")
    every = [
        mutant
        for file in options.files
        for mutant in mutants(file, (trial.PACKAGE / file).read_text())
    ]
    if options.mutant:
        unknown = set(options.mutant) - {mutant.name for mutant in every}
        if unknown:
            sys.exit(f"mutation: no such --mutant, see --list: {sorted(unknown)}")
        every = [mutant for mutant in every if mutant.name in options.mutant]
    if options.sample is not None:
        every = random.Random(options.seed).sample(
            every, min(options.sample, len(every))
        )
    return sorted(every, key=lambda mutant: options.files.index(mutant.file))


def _files(chosen: list[Mutant]) -> set[str]:
    return {mutant.file for mutant in chosen}


@cache
def _seconds(file: str, logs: Path) -> int:
    """Holds that a module's tests pass; returns how long they may take on a mutant."""
    start, log = time.monotonic(), logs / f"{file}.log"
    child = trial.start(file, None, TESTS[file], 3600, log)
    if trial.exit_status(child):
        sys.exit(f"mutation: the tests of {file} fail without a mutant, see {log}")
    return 60 + 4 * round(time.monotonic() - start)


def _tried(chosen: list[Mutant], jobs: int, logs: Path) -> Iterator[tuple[Mutant, str]]:
    """Yields each mutant with its verdict, and prints it."""

    def started():
        for m in chosen:
            if report.is_equivalent(m):
                continue
            seconds, log = _seconds(m.file, logs), logs / f"{m.name}.log"
            yield m, trial.start(m.file, m.source, TESTS[m.file], seconds, log)

    yield from ((m, report.EQUIVALENT) for m in chosen if report.is_equivalent(m))
    for mutant, status in trial.ended(started(), jobs):
        verdict = report.KILLED if status else report.SURVIVED
        print(mutant.name, verdict, flush=True)
        yield mutant, verdict


if __name__ == "__main__":
    main()
