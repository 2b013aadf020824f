"""Tables of the programs that were compiled for TPUs."""

from __future__ import annotations

from benchmarks.results import Sheet, mib


def sheet(title: str, records: list[dict]) -> Sheet:
    """Returns a table with a line for each program."""
    rows = [
        [
            f"{r['generation']}:{r['shape']}",
            str(r["chips"]),
            f"{r['n']}x{r['d']}",
            f"{r['way']}, {r['dtype']}{_grid(r)}",
            *_figures(r),
        ]
        for r in records
    ]
    return Sheet(
        f"TPU: {title}, for each chip",
        ["topology", "chips", "size", "way", "temporaries", "GFLOP", "moved", "by"],
        rows,
        ["compiled by libtpu; not run on TPUs"],
    )


def _grid(record: dict) -> str:
    return f" {tuple(record['grid'])}" if record["grid"] else ""


def _figures(record: dict) -> list[str]:
    if "missing" in record:
        return [record["missing"], "", "", ""]
    kinds = (f"{kind} {mib(moved)}" for kind, moved in record["moved"].items())
    return [
        mib(record["temporaries"]),
        f"{record['flops'] / 1e9:.4g}",
        mib(record["moved_total"]),
        ", ".join(kinds),
    ]
