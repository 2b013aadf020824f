"""What the command line can say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parity.cases import Level
from parity.platforms import Platform

FaultName = Literal[
    "biased-variance",
    "halved-hinge",
    "missing-factor",
    "wrong-eps",
    "missing-invariance-gradient",
    "missing-variance-gradient",
    "missing-covariance-gradient",
    "half-the-columns",
    "cast-per-term",
    "tf32-products",
    "bfloat16-products",
    "world-size",
    "missing-gather",
    "decayed-vectors",
    "rate-in-momentum",
]


@dataclass(frozen=True)
class Options:
    """Compares this package with PyTorch, case by case.

    Exits with 0 if everything chosen passed, with 1 if a comparison failed, and with 2
    if nothing was compared or something broke. What cannot be run here is listed and
    counts as neither.
    """

    quick: bool = False
    """Runs for less than a minute: what a change has to pass."""
    full: bool = False
    """Adds shapes up to 1024 x 4096."""
    huge: bool = False
    """Adds 2048 x 8192 to the full suite."""
    filter: str = "*"
    """Shell pattern of whole names, such as 'values/*float16*' or 'training/*'."""
    json: Path | None = None
    """File for all numbers."""
    png: Path | None = None
    """File for a picture: error against size, for both frameworks."""
    platform: Platform | None = None
    """Where this package runs; PyTorch stays on the CPU. None: what JAX finds."""
    inject: FaultName | None = None
    """Puts this fault into the loss: the suite then has to exit with 1."""

    def __post_init__(self):
        """Refuses two levels at once."""
        if self.quick + self.full + self.huge > 1:
            raise ValueError("only one of --quick, --full and --huge can be chosen")

    @property
    def level(self) -> Level:
        """How much is run."""
        chosen = {
            Level.QUICK: self.quick,
            Level.FULL: self.full,
            Level.HUGE: self.huge,
        }
        return next((level for level, on in chosen.items() if on), Level.STANDARD)

    @property
    def without_filter(self) -> list[str]:
        """The command line that chooses the same cases, but for its filter."""
        levels = {name: getattr(self, name) for name in ("quick", "full", "huge")}
        words = [f"--{name}" for name, on in levels.items() if on]
        for name in ("platform", "inject"):
            if getattr(self, name):
                words += [f"--{name}", getattr(self, name)]
        return words
