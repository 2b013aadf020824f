"""Tables of the loss: times, ratios and goals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.contenders import FLOOR, FLOOR_TORCH, OURS, REFERENCE
from benchmarks.results import Sheet, spread
from benchmarks.sizes import GOALS, Size

Record = dict[str, Any]
# Values of the loss may differ by the precision of the dtype.
_AGREES = {"float32": 1e-3, "bfloat16": 5e-2}


def sheets(records: list[Record], *, goals: bool) -> list[Sheet]:
    """Returns tables of times and ratios by dtype.

    Args:
        records: The results, one for each size and dtype.
        goals: Whether a table compares them with the goals, which are for two cores.
    """
    dtypes = dict.fromkeys(record["dtype"] for record in records)
    found = []
    for dtype in dtypes:
        here = [record for record in records if record["dtype"] == dtype]
        found += [_times(dtype, here), _ratios(dtype, here)]
    compared = _goals(records)
    return found + ([compared] if goals and compared.rows else [])


def _times(dtype: str, records: list[Record]) -> Sheet:
    names = list(dict.fromkeys(name for r in records for name in r["seconds"]))
    rows = [
        [f"{r['n']}x{r['d']}", *(_time(r["seconds"].get(name)) for name in names)]
        for r in records
    ]
    return Sheet(
        f"Loss, value and gradient, {dtype}: median time (quartiles)",
        ["size", *names],
        rows,
        [*_missing(records), *_disagreeing(dtype, records)],
    )


def _ratios(dtype: str, records: list[Record]) -> Sheet:
    names = list(dict.fromkeys(name for r in records for name in r["times_ours"]))
    # The floors have columns of their own, the other way round: ours over theirs.
    names = [name for name in names if name not in (FLOOR, FLOOR_TORCH)]
    rows = [
        [
            f"{r['n']}x{r['d']}",
            *(_times_as_long(r["times_ours"].get(name)) for name in names),
            _over(r["over_floor"]),
            _over(r["over_floor_torch"]),
            r["fastest_eager"] or "",
        ]
        for r in records
    ]
    return Sheet(
        f"Loss, {dtype}: time over the time of ours, median of rounds (quartiles)",
        ["size", *names, "ours / floor", "ours / PyTorch's floor", "fastest eager"],
        rows,
    )


def _goals(records: list[Record]) -> Sheet:
    rows = []
    for r in records:
        goal = GOALS.get(Size(r["n"], r["d"]))
        if goal is None or r["dtype"] != "float32":
            continue
        faster = r["times_ours"].get(REFERENCE)
        fastest = r["times_ours"].get(r["fastest_eager"])
        over = r["over_floor"]
        rows.append(
            [
                f"{r['n']}x{r['d']}",
                f">= {goal.faster:g}",
                _verdict(faster, lambda found, goal=goal: found >= goal.faster),
                _verdict(fastest, lambda found, goal=goal: found >= goal.faster),
                f"<= {goal.over_floor:g}",
                _verdict(over, lambda found, goal=goal: found <= goal.over_floor),
            ]
        )
    return Sheet(
        "Goals, float32, on two cores",
        [
            "size",
            "goal",
            "faster than the PyTorch reference",
            "than the fastest eager PyTorch",
            "goal",
            "time over the floor",
        ],
        rows,
    )


def _verdict(found: Record | None, met) -> str:
    if found is None:
        return "not measured"
    return f"{found['median']:.3g}: {'met' if met(found['median']) else 'NOT MET'}"


def _time(found: Record | None) -> str:
    return "" if found is None else spread(found)


def _times_as_long(found: Record | None) -> str:
    if found is None:
        return ""
    return f"{found['median']:.3g} ({found['low']:.3g}-{found['high']:.3g})"


def _over(found: Record | None) -> str:
    return "" if found is None else f"{found['median']:.2f}"


def _missing(records: Iterable[Record]) -> list[str]:
    where: dict[str, list[str]] = {}
    for r in records:
        for name, reason in r["missing"].items():
            where.setdefault(f"{name}: {reason}", []).append(f"{r['n']}x{r['d']}")
    return [f"{what} ({', '.join(sizes)})" for what, sizes in where.items()]


def _disagreeing(dtype: str, records: Iterable[Record]) -> list[str]:
    """Lists contenders whose value is another one, so that times mean little."""
    notes = []
    for r in records:
        ours = r["values"].get(OURS)
        for name, value in r["values"].items():
            if ours and abs(value / ours - 1) > _AGREES[dtype]:
                notes.append(
                    f"{name} at {r['n']}x{r['d']} gives {value:.6g}, ours {ours:.6g}"
                )
    return notes
