"""The verdict on one quantity of one case, and what a section is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

FACTOR = 1.0
"""How many times PyTorch's own distance ours may be, beside the rounding bound."""


@dataclass(frozen=True)
class Check:
    """One quantity: three numbers, two distances to the exact one, and their limits.

    Attributes:
        task: name of the task that it belongs to.
        quantity: what is compared.
        ours: our number; of an array, the entry that is furthest off.
        theirs: PyTorch's.
        exact: the oracle's.
        unit: one unit of rounding at this size, of the dtype that the inputs have.
        distance: ours to the oracle; of an array, the Frobenius norm.
        their_distance: PyTorch's to the oracle, in the dtype of the inputs.
        limit: what `distance` must not exceed.
        peer_distance: PyTorch's to the oracle, in the arithmetic that ours runs in.
        peer_limit: what `peer_distance` must not exceed, or it is another loss.
        entries: of an array, the largest share of its own limit that the error of an
            entry takes; above 1 is a failure.
        size: entries of one view, for the picture.
        dtype: of the embeddings.
    """

    task: str
    quantity: str
    ours: float
    theirs: float
    exact: float
    unit: float
    distance: float
    their_distance: float
    limit: float
    peer_distance: float = 0.0
    peer_limit: float = math.inf
    entries: float = 0.0
    size: int = 0
    dtype: str = ""

    @property
    def ratio(self) -> float:
        """Our distance as a share of what is allowed: above 1 is a failure."""
        ratio = max(share(self.distance, self.limit), self.entries)
        return math.inf if math.isnan(ratio) else ratio

    @property
    def reference_agrees(self) -> bool:
        """Whether the reference computes this loss at all."""
        return self.peer_distance <= self.peer_limit

    @property
    def passed(self) -> bool:
        """Whether we are as right as PyTorch, and it is right."""
        return self.ratio <= 1 and self.reference_agrees

    def in_units(self, distance: float) -> float:
        """Returns a distance in units of rounding."""
        if distance == 0:
            return 0.0
        return distance / self.unit if self.unit else math.inf


def share(error: float, limit: float) -> float:
    """Returns an error as a share of its limit; infinite if it must be 0 and is not."""
    if math.isnan(error) or limit == 0:
        return 0.0 if error == 0 else math.inf
    return error / limit


class Task(NamedTuple):
    """Something to run that ends in checks.

    Attributes:
        name: "section/case".
        run: does it.
    """

    name: str
    run: Callable[[], list[Check]]


class NotRun(Exception):
    """Raised by a task that cannot be run here, with the reason."""


@dataclass(frozen=True)
class Outcome:
    """What became of a task: checks, or the reason why there are none.

    Attributes:
        name: the task's.
        checks: empty if it was not run or broke.
        not_run: why it cannot be run here.
        error: what it broke with.
        seconds: how long it took.
    """

    name: str
    checks: tuple[Check, ...] = ()
    not_run: str = ""
    error: str = ""
    seconds: float = 0.0

    @property
    def section(self) -> str:
        """The section that the task belongs to."""
        return self.name.split("/")[0]

    @property
    def failed(self) -> bool:
        """Whether it broke or one of its checks failed."""
        return bool(self.error) or any(not check.passed for check in self.checks)
