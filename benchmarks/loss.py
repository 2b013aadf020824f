"""The loss section: time of value and gradient, by size, dtype and contender."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks import timing
from benchmarks.contenders import (
    EAGER,
    FLOOR,
    FLOOR_TORCH,
    OURS,
    Contender,
)
from benchmarks.loss_sheets import sheets
from benchmarks.options import Options
from benchmarks.place import NotAvailable, Place
from benchmarks.results import Section
from benchmarks.sizes import Problem
from benchmarks.timing import Budget, Spread, Times

_CPU = Place("cpu", "cpu")
LONGEST = 90.0
"""Seconds for each call. A contender that would take longer is left out."""


class Measured(NamedTuple):
    """The results of one problem.

    Attributes:
        problem: The inputs.
        times: Times of each contender, by round.
        values: Values of the loss, by contender.
        missing: The reason why a contender was not measured, by its name.
    """

    problem: Problem
    times: dict[str, Times]
    values: dict[str, float]
    missing: dict[str, str]

    def record(self) -> dict:
        """Returns the results and their ratios as plain Python values."""
        spreads = {name: Spread.of(t.values()) for name, t in self.times.items()}
        ours = self.times.get(OURS)
        ratios = {}
        if ours:
            slower = {n: timing.ratio(t, ours) for n, t in self.times.items()}
            ratios = {n: s._asdict() for n, s in slower.items() if s and n != OURS}
        return {
            "n": self.problem.size.n,
            "d": self.problem.size.d,
            "dtype": self.problem.dtype,
            "seconds": {name: spread._asdict() for name, spread in spreads.items()},
            "times_ours": ratios,
            "over_floor": self._over(FLOOR),
            "over_floor_torch": self._over(FLOOR_TORCH),
            "fastest_eager": min(
                (name for name in EAGER if name in spreads),
                key=lambda name: spreads[name].median,
                default=None,
            ),
            "values": self.values,
            "missing": self.missing,
        }

    def _over(self, floor: str) -> dict | None:
        if OURS not in self.times or floor not in self.times:
            return None
        over = timing.ratio(self.times[OURS], self.times[floor])
        return over._asdict() if over else None


def run(options: Options, progress, place: Place = _CPU) -> Section:
    """Measures every size in every dtype.

    Args:
        options: The parsed command line.
        progress: Called with a description of each part.
        place: The device.
    """
    records = []
    for dtype in options.dtypes():
        # Anew for each dtype, as a contender may be far slower in another one.
        rates: dict[str, float] = {}
        for size in options.loss_sizes():
            problem = Problem(size, dtype)
            chosen = options.contenders(dtype)
            measured = measure(problem, chosen, place, options.budget, rates, progress)
            records.append(measured.record())
    return Section("loss", records, sheets(records, goals=place.jax == "cpu"))


def measure(
    problem: Problem,
    chosen: list[Contender],
    place: Place,
    budget: Budget,
    rates: dict[str, float],
    progress,
) -> Measured:
    """Measures the contenders against each other on one problem.

    Args:
        problem: The inputs.
        chosen: Contenders.
        place: The device.
        budget: How long to measure.
        rates: Seconds for each multiplication of `Size.work` by contender, as measured
            at the size before. It predicts which contenders would take too long, and is
            updated.
        progress: Called with a description of each part.
    """
    calls, estimates, values, missing = {}, {}, {}, {}
    for contender in chosen:
        expected = rates.get(contender.name, 0.0) * problem.size.work
        if expected > LONGEST:
            missing[contender.name] = f"left out: it would take about {expected:.0f} s"
            continue
        progress(f"loss {problem} {contender.name}")
        try:
            call = contender.build(problem, place)
            value, estimates[contender.name] = timing.warmed_up(call)
        except (NotAvailable, ModuleNotFoundError) as error:
            missing[contender.name] = str(error)
            continue
        calls[contender.name] = call
        # The bare products have no value.
        if value is not None:
            values[contender.name] = float(value)
    times = timing.interleaved(calls, estimates, budget)
    for name, by_round in times.items():
        rates[name] = Spread.of(by_round.values()).median / problem.size.work
    return Measured(problem, times, values, missing)
