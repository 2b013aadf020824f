"""The startup section: import and compilation, each in a new process."""

from __future__ import annotations

from benchmarks import child
from benchmarks.options import Options
from benchmarks.results import Section, Sheet, spread
from benchmarks.sizes import Size
from benchmarks.timing import Spread

_IMPORTS = """
import json, time
started = time.perf_counter()
import jax
between = time.perf_counter()
import vicreg_jax
done = time.perf_counter()
print(json.dumps({"jax": between - started, "vicreg_jax": done - between}))
"""
_SIZES = (Size(256, 2048), Size(2048, 2048), Size(2048, 8192), Size(65536, 512))


def run(options: Options, progress) -> Section:
    """Measures imports, then compilation of value and gradient at several sizes.

    Args:
        options: The parsed command line.
        progress: Called with a description of each part.
    """
    repeats = 1 if options.quick else 5
    sizes = options.loss_sizes()[:1] if options.quick else _SIZES
    progress("startup imports")
    # The first import reads from disk and writes bytecode.
    child.run("-c", _IMPORTS)
    imports = [child.run("-c", _IMPORTS) for _ in range(repeats)]
    records = [_record("import", name, "", imports, name) for name in imports[0]]
    for size in sizes:
        for name in ("ours", "plain JAX"):
            progress(f"startup {size} {name}")
            arguments = (name, str(size.n), str(size.d))
            found = [
                child.run("-m", "benchmarks.compile_once", *arguments)
                for _ in range(min(repeats, 3))
            ]
            records += [_record(f, name, str(size), found, f) for f in found[0]]
    return Section("startup", records, [_sheet(records)])


def _record(what: str, name: str, size: str, found: list[dict], field: str) -> dict:
    times = Spread.of(one[field] for one in found)
    return {"what": what, "name": name, "size": size, "seconds": times._asdict()}


def _sheet(records: list[dict]) -> Sheet:
    rows = []
    for r in records:
        what = f"{r['what']} {r['name']} {r['size']}".strip()
        rows.append([what, spread(r["seconds"])])
    return Sheet(
        "Start-up, each in a new process",
        ["what", "median (quartiles)"],
        rows,
        ["import vicreg_jax: after import jax", "compile: value and gradient"],
    )
