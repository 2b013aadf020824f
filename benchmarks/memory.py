"""The memory section: peak beyond inputs and gradients, each in a new process."""

from __future__ import annotations

from typing import Any

from benchmarks import child, peak
from benchmarks.contenders import EAGER, FLOOR, OURS, REFERENCE
from benchmarks.options import Options
from benchmarks.results import Section, Sheet, mib, not_run
from benchmarks.sizes import MEMORY_GOAL, Problem

_QUICK = (OURS, REFERENCE)
_OF = {
    "float32": (*EAGER, OURS, "torch.compile", "plain JAX", FLOOR),
    # In bfloat16 the other losses behave as the reference.
    "bfloat16": (*_QUICK, "PyTorch in float32", "plain JAX"),
}


def run(options: Options, progress) -> Section:
    """Measures every size in float32, and the largest in bfloat16.

    Args:
        options: The parsed command line.
        progress: Called with a description of each part.
    """
    if not peak.available():
        return not_run("memory", "the kernel has no peak of memory that can be reset")
    sizes = options.memory_sizes()
    problems = [
        Problem(size, dtype)
        for dtype in options.dtypes()
        for size in (sizes if dtype == "float32" else sizes[-1:])
    ]
    records = []
    for problem in problems:
        for contender in options.contenders(problem.dtype):
            if contender.name not in (_QUICK if options.quick else _OF[problem.dtype]):
                continue
            progress(f"memory {problem} {contender.name}")
            records.append(measure(contender.name, problem))
    return Section("memory", records, [_sheet(records)])


def measure(name: str, problem: Problem) -> dict:
    """Measures one contender on one problem and returns the record."""
    size, dtype = problem
    arguments = (name, str(size.n), str(size.d), dtype)
    found: dict[str, Any]
    try:
        found = child.run("-m", "benchmarks.peak_once", *arguments, exact_malloc=True)
    except RuntimeError as error:
        found = {"missing": str(error)}
    record = {"n": size.n, "d": size.d, "dtype": dtype, "name": name, **found}
    if "peak" in found:
        # The products are always float32 and have the size of the gradients.
        wide = dtype == "float32" or name.startswith("floor")
        gradients = 2 * size.n * size.d * (4 if wide else 2)
        record["beyond"] = found["peak"] - gradients
        # In float32 views for bfloat16 too, so that the lines can be compared.
        record["views"] = record["beyond"] / (size.n * size.d * 4)
    return record


def _sheet(records: list[dict]) -> Sheet:
    rows, notes = [], []
    for r in records:
        size = f"{r['n']}x{r['d']} {r['dtype']}"
        if "beyond" not in r:
            notes.append(f"{r['name']} at {size}: {r['missing']}")
            continue
        temporaries = r.get("temporaries")
        cells = [size, r["name"], mib(r["beyond"]), f"{r['views']:.2f}"]
        rows.append([*cells, "" if temporaries is None else mib(temporaries)])
        goal_size, most = MEMORY_GOAL
        if (r["n"], r["d"], r["dtype"], r["name"]) == (*goal_size, "float32", OURS):
            verdict = "met" if r["views"] <= most else "NOT MET"
            notes.append(f"goal at {size}, ours: <= {most:g} views: {verdict}")
    return Sheet(
        "Peak memory of value and gradient beyond inputs and gradients",
        ["size", "contender", "peak", "in float32 views (n d 4 bytes)", "compiled"],
        rows,
        ["compiled: the temporaries that XLA plans", *notes],
    )
