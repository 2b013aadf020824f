"""The options of the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import Contender, contenders
from benchmarks.sizes import (
    DTYPES,
    LOSS_SIZES,
    MEMORY_SIZES,
    PRECISION_SIZES,
    PROBE_SIZES,
    QUICK_PROBE_SIZES,
    QUICK_SIZES,
    Size,
)
from benchmarks.timing import Budget

SECTIONS = (
    "loss",
    "local",
    "memory",
    "step",
    "probe",
    "input",
    "job",
    "startup",
    "tpu",
    "precisions",
    "gpu",
)


@dataclass(frozen=True)
class Options:
    """Measures speed, memory and traffic of this package and of other implementations.

    Without arguments all sections run, which takes 40 minutes on two idle cores. Leave
    the machine idle meanwhile.
    """

    sections: str = ",".join(SECTIONS)
    """Sections to run, separated by commas."""
    out: Path | None = None
    """Directory for results.json, results.md and the plots. None: write no files."""
    filter: str = ""
    """Measure only these sizes, dtypes and contenders (parts of their names), separated
    by commas: "2048x8192,float32,ours,floor"."""
    quick: bool = False
    """Check that everything runs, with small sizes and few rounds."""
    seconds: float = 1.5
    """Approximate seconds for each contender at each size; at least three calls."""
    threads: int | None = None
    """Threads of both frameworks. None: one for each core, or 1 with --quick."""

    def __post_init__(self):
        """Checks the options."""
        for section in self.chosen_sections:
            if section not in SECTIONS:
                raise ValueError(
                    f"`sections` must be of {', '.join(SECTIONS)}, got {section!r}"
                )
        if not self.seconds > 0:
            raise ValueError(f"`seconds` must be above 0, got {self.seconds}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"`threads` must be at least 1, got {self.threads}")

    @property
    def chosen_sections(self) -> list[str]:
        """The chosen sections, in the order of the command line."""
        return _words(self.sections)

    @property
    def budget(self) -> Budget:
        """How long the loss is measured."""
        if self.quick:
            return Budget(seconds=0.01, turn=0.002, rounds=2)
        return Budget(seconds=self.seconds)

    def loss_sizes(self) -> list[Size]:
        """Returns the sizes that are timed."""
        return self._sizes(LOSS_SIZES)

    def memory_sizes(self) -> list[Size]:
        """Returns the sizes for peak memory."""
        return self._sizes(MEMORY_SIZES, QUICK_SIZES[-1:])

    def probe_sizes(self) -> list[Size]:
        """Returns the sizes of the training features of probes."""
        return self._sizes(PROBE_SIZES, QUICK_PROBE_SIZES)

    def precision_sizes(self) -> list[Size]:
        """Returns the sizes at which precisions are compared."""
        return self._sizes(PRECISION_SIZES)

    def dtypes(self) -> list[str]:
        """Returns the dtypes of the views."""
        named = [word for word in _words(self.filter) if word in DTYPES]
        return named or list(DTYPES)

    def contenders(self, dtype: str) -> list[Contender]:
        """Returns the contenders for a dtype."""
        # One option filters sizes, dtypes and names, and each is recognized by its
        # form.
        words = [
            word.lower()
            for word in _words(self.filter)
            if word not in DTYPES and not _is_size(word)
        ]
        return [
            contender
            for contender in contenders()
            if dtype in contender.dtypes
            and (not words or any(word in contender.name.lower() for word in words))
        ]

    def _sizes(self, sizes, quick=QUICK_SIZES) -> list[Size]:
        # A named size counts with --quick too, and the section need not list it.
        named = [word for word in _words(self.filter) if _is_size(word)]
        if named:
            return [Size(*map(int, word.split("x"))) for word in named]
        return list(quick if self.quick else sizes)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _is_size(word: str) -> bool:
    return re.fullmatch(r"\d+x\d+", word) is not None
