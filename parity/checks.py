"""The verdict on one quantity of one case, and the tasks that a section consists of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

FACTOR = 1.0
"""Our distance may be the rounding bound plus this many times PyTorch's distance."""


@dataclass(frozen=True)
class Check:
    """One quantity: three numbers, their distances, and the limits of the distances.

    Attributes:
        task: Name of the task.
        quantity: What is compared.
        ours: Our number. Of an array, the entry with the largest error.
        theirs: PyTorch's number.
        exact: The exact number.
        unit: One unit of rounding at this size, in the dtype of the inputs.
        distance: Distance of ours to the exact result; of arrays, the Frobenius norm.
        their_distance: Distance of PyTorch to the exact result, in the dtype of the
            inputs.
        limit: Largest allowed `distance`.
        peer_distance: Distance of PyTorch to the exact result, in the arithmetic that
            ours uses.
        peer_limit: Largest allowed `peer_distance`. Beyond it PyTorch computes another
            loss.
        entries: For an array, the largest ratio of an entry's error to its own limit.
            Above 1 is a failure.
        size: Entries of one view, for the picture.
        dtype: Dtype of the embeddings.
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
        """Our distance divided by its limit. Above 1 is a failure."""
        ratio = max(share(self.distance, self.limit), self.entries)
        # inf / inf is NaN, which has no place in the order that the report sorts by.
        return math.inf if math.isnan(ratio) else ratio

    @property
    def reference_agrees(self) -> bool:
        """Whether the reference computes this loss."""
        return self.peer_distance <= self.peer_limit

    @property
    def passed(self) -> bool:
        """Whether ours is within its limit and the reference within its own."""
        return self.ratio <= 1 and self.reference_agrees

    def in_units(self, distance: float) -> float:
        """Returns a distance in units of rounding; infinite if a result overflowed."""
        if distance == 0:
            return 0.0
        # A NaN would have any place in an order, and a median none.
        known = self.unit and not math.isnan(distance)
        return distance / self.unit if known else math.inf


def share(error: float, limit: float) -> float:
    """Returns an error divided by its limit; infinite if the limit 0 is exceeded."""
    if math.isnan(error) or limit == 0:
        return 0.0 if error == 0 else math.inf
    return error / limit


class Task(NamedTuple):
    """Something to run that returns checks.

    Attributes:
        name: "section/case".
        run: Runs it.
    """

    name: str
    run: Callable[[], list[Check]]


class NotRun(Exception):
    """Raised by a task that cannot be run here, with the reason."""


@dataclass(frozen=True)
class Outcome:
    """The result of a task: checks, or the reason why there are none.

    Attributes:
        name: Name of the task.
        checks: Empty if the task was not run or raised an error.
        not_run: Why it cannot be run here.
        error: The traceback of the error that it raised.
        seconds: How long it took.
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
        """Whether it raised an error or one of its checks failed."""
        return bool(self.error) or any(not check.passed for check in self.checks)
