"""The options of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parity.cases import Level
from parity.platforms import Platform

# tyro reads the choices from the type, and a type checker takes no computed Literal.
# `tests/test_parity.py` compares the names with those of `FAULTS`.
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
    "choice-gradient",
    "pooled-slots",
    "one-direction",
    "ignored-flips",
    "backbone-in-train-mode",
    "backbone-in-eval-mode",
    "undecayed-bias",
    "cosine-by-step",
    "mean-over-padding",
    "one-rate",
]


@dataclass(frozen=True)
class Options:
    """Compares this package with PyTorch, case by case.

    The exit status is 0 if every chosen case passed, 1 if a comparison failed, and 2 if
    nothing was compared or an error occurred. Cases that cannot run here are listed and
    count as neither.
    """

    quick: bool = False
    """Run the smallest cases only, for a few minutes."""
    full: bool = False
    """Add shapes up to 1024 x 4096, a ResNet-50, and a pretraining job."""
    huge: bool = False
    """Add 2048 x 8192 to the full suite."""
    filter: str = "*"
    """Shell pattern for the names of cases, such as 'values/*float16*'."""
    json: Path | None = None
    """Write all numbers to this JSON file."""
    png: Path | None = None
    """Write a picture of error against size to this PNG file."""
    platform: Platform | None = None
    """Platform of this package. None: what JAX finds. PyTorch runs on the CPU."""
    inject: FaultName | None = None
    """Put this fault into the package. The suite must then exit with 1."""

    def __post_init__(self):
        """Checks that at most one level is chosen."""
        if self.quick + self.full + self.huge > 1:
            raise ValueError("only one of --quick, --full and --huge may be given")

    @property
    def level(self) -> Level:
        """The chosen level."""
        chosen = {
            Level.QUICK: self.quick,
            Level.FULL: self.full,
            Level.HUGE: self.huge,
        }
        return next((level for level, on in chosen.items() if on), Level.STANDARD)

    @property
    def without_filter(self) -> list[str]:
        """The words of the command line, except --filter, --json and --png."""
        levels = {name: getattr(self, name) for name in ("quick", "full", "huge")}
        words = [f"--{name}" for name, on in levels.items() if on]
        for name in ("platform", "inject"):
            if getattr(self, name):
                words += [f"--{name}", getattr(self, name)]
        return words
