"""Times of several contenders, measured in turns, and their ratios.

The speed of a machine drifts with its temperature and its other users. Contenders
therefore take turns in rounds, in a random order. A ratio is the median of the ratios
within each round, which drift does not change, instead of the ratio of two medians.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

Call = Callable[[], Any]
"""Runs once, to completion."""
Times = dict[int, float]
"""Seconds for each call, by round. Slow contenders skip rounds."""


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, samples: Iterable[float]) -> Spread:
        """Returns the spread of samples; of a single one, all three are that one."""
        values = list(samples)
        # `statistics.quantiles` refuses a single sample before Python 3.13.
        if len(values) < 2:
            values *= 2
            return cls(values[0], *values, rounds=1)
        # The default method, "exclusive", puts the quartiles of two samples outside of
        # them.
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, len(values))


class Budget(NamedTuple):
    """How long to measure.

    Attributes:
        seconds: Approximate time for each contender at each size.
        turn: Seconds for the calls of one turn.
        rounds: Most rounds.
        slow: Seconds for a call, above which a contender has only two turns.
    """

    seconds: float = 1.5
    turn: float = 0.1
    rounds: int = 12
    slow: float = 20.0

    def stride(self, estimate: float) -> int:
        """Returns the number of rounds from one turn of a contender to its next.

        Strides of slower contenders are multiples of it, as far as each has three
        turns. So in each round of a slow contender a faster one also has a turn.

        Args:
            estimate: Seconds for each call.
        """
        if estimate > self.slow:
            return max(1, self.rounds // 2)
        affordable = self.seconds / max(estimate, self.turn)
        wanted = max(3.0, affordable)
        # Powers of two, each of which divides all larger ones.
        stride = 1
        while stride < 4 and self.rounds / (2 * stride) >= wanted:
            stride *= 2
        return stride


def warmed_up(call: Call) -> tuple[Any, float]:
    """Returns the result of a compiled call, and about how long it takes.

    A short call is made twice, since the first one can be an outlier.
    """
    started = time.perf_counter()
    result = call()
    first = time.perf_counter() - started
    # A call of a second or more is hardly changed by what only the first one does.
    return result, first if first > 1 else timed(call)


def interleaved(
    calls: Mapping[str, Call], estimates: Mapping[str, float], budget: Budget
) -> dict[str, Times]:
    """Measures calls that have been made before, in turns.

    Args:
        calls: Calls by name of the contender.
        estimates: Seconds for each call, by name.
        budget: How long to measure.
    """
    strides = {name: budget.stride(estimates[name]) for name in calls}
    # A random order, so that no contender always follows the same other one.
    rng = random.Random(0)
    times: dict[str, Times] = {name: {} for name in calls}
    for at in range(budget.rounds):
        order = [name for name in calls if at % strides[name] == 0]
        rng.shuffle(order)
        for name in order:
            times[name][at] = turn(calls[name], budget.turn)
    return times


def turn(call: Call, seconds: float) -> float:
    """Returns the median time of the calls that fit into a number of seconds.

    A short first call is not counted: it is slowed by what the contender before it left
    in the caches, and by that contender's threads, which spin for a while.
    """
    first = timed(call)
    if first > seconds:
        return first
    times, spent = [], 0.0
    while spent < seconds:
        times.append(timed(call))
        spent += times[-1]
    return statistics.median(times)


def timed(call: Call) -> float:
    """Returns the seconds that one call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def ratio(ours: Times, theirs: Times) -> Spread | None:
    """Returns the spread of `ours / theirs` over the rounds that both took part in."""
    both = sorted(ours.keys() & theirs.keys())
    return Spread.of(ours[at] / theirs[at] for at in both) if both else None
