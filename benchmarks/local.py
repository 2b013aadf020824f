"""The local section: VICRegL's local loss beside lightly's, time and peak memory.

Both sides have lightly's settings: 20 and 4 matches by feature and by location, slots
in the order of distance, two views, the local part alone, value and gradient.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from benchmarks import child, peak, timing
from benchmarks.contenders import NotAvailable
from benchmarks.options import Options
from benchmarks.results import Section, Sheet, mib, spread
from benchmarks.timing import Call, Spread

OURS, LIGHTLY = "ours", "lightly"
MATCHES = (20, 4)
GOAL = 5.0
"""How many times as fast as lightly's, at the largest size."""


class MapSize(NamedTuple):
    """The size of one view's map."""

    batch: int
    side: int
    channels: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.side}x{self.side} x {self.channels}"

    def arrays(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Returns two maps and their positions in float32, without ties."""
        rng = np.random.default_rng(0)
        shape = (self.batch, self.side, self.side)
        shared = rng.standard_normal((*shape, self.channels), np.float32)
        maps = [
            shared + 0.5 * rng.standard_normal(shared.shape, np.float32)
            for _ in range(2)
        ]
        positions = [rng.random((*shape, 2), np.float32) for _ in range(2)]
        return maps, positions


SIZES = (MapSize(32, 7, 128), MapSize(64, 7, 512))
QUICK_SIZES = (MapSize(8, 5, 8),)


def run(options: Options, progress) -> Section:
    """Measures both contenders by turns, and the peak memory of each.

    Args:
        options: The parsed command line.
        progress: Called with what is being done.
    """
    records = []
    for size in QUICK_SIZES if options.quick else SIZES:
        progress(f"local {size}")
        records.append(measure(size, options))
    return Section("local", records, [_sheet(records)])


def measure(size: MapSize, options: Options) -> dict:
    """Returns the record of one size."""
    calls, estimates, values, missing = {}, {}, {}, {}
    for name, build in CONTENDERS.items():
        try:
            calls[name] = build(size)
        except (NotAvailable, ModuleNotFoundError) as error:
            missing[name] = str(error)
            continue
        value, estimates[name] = timing.warmed_up(calls[name])
        values[name] = float(value)
    times = timing.interleaved(calls, estimates, options.budget)
    over = timing.ratio(times[LIGHTLY], times[OURS]) if LIGHTLY in times else None
    return {
        "size": str(size),
        "seconds": {
            name: Spread.of(by_round.values())._asdict()
            for name, by_round in times.items()
        },
        "times_ours": over._asdict() if over else None,
        "values": values,
        "peak": {name: _peak(name, size) for name in calls},
        "missing": missing,
    }


def _peak(name: str, size: MapSize) -> int | None:
    if not peak.available():
        return None
    words = (name, *map(str, size))
    return child.run("-m", "benchmarks.local", *words, exact_malloc=True)["peak"]


def _ours(size: MapSize) -> Call:
    import jax

    from vicreg_jax import conventions

    loss = conventions.vicregl_lightly(alpha=0.0, num_matches=MATCHES)
    maps, positions = jax.tree.map(jax.numpy.asarray, size.arrays())
    # The global loss has no share, but lightly computes it all the same. On two columns
    # it costs nothing.
    embeddings = jax.numpy.eye(size.batch, 2)
    step = jax.jit(jax.value_and_grad(lambda maps, p: loss([embeddings] * 2, maps, p)))
    program = step.lower(maps, positions).compile()

    def call():
        value, gradients = program(maps, positions)
        jax.block_until_ready(gradients)
        return value.block_until_ready()

    return call


def _lightly(size: MapSize) -> Call:
    import torch

    from parity import upstream

    try:
        build = upstream.load("lightly_local")
    except upstream.NotLoaded as reason:
        raise NotAvailable(str(reason)) from None
    loss = build(25.0, 25.0, 1.0, 1.0)(alpha=0.0, num_matches=MATCHES)
    maps, positions = size.arrays()
    leaves = [torch.from_numpy(x).requires_grad_() for x in maps]
    grids = [torch.from_numpy(p) for p in positions]
    embeddings = torch.eye(size.batch, 2)

    def call():
        # lightly tells views apart by `is`, so one tensor for both would be one view.
        features = [(embeddings.clone(), x) for x in leaves]
        value = loss(global_view_features=features, global_view_grids=grids).sum()
        gradients = torch.autograd.grad(value, leaves)
        del gradients
        return value.detach()

    return call


CONTENDERS: dict[str, Callable[[MapSize], Call]] = {OURS: _ours, LIGHTLY: _lightly}


def _sheet(records: list[dict]) -> Sheet:
    rows, notes = [], []
    for r in records:
        times = [
            spread(r["seconds"][name]) if name in r["seconds"] else ""
            for name in CONTENDERS
        ]
        peaks = [mib(r["peak"][n]) if r["peak"].get(n) else "" for n in CONTENDERS]
        over = r["times_ours"]
        ratio = "{median:.3g} ({low:.3g}-{high:.3g})".format(**over) if over else ""
        rows.append([r["size"], *times, ratio, *peaks])
        notes += [f"{name} at {r['size']}: {why}" for name, why in r["missing"].items()]
        if over and r["size"] == str(SIZES[-1]):
            verdict = "met" if over["median"] >= GOAL else "NOT MET"
            notes.append(f"goal at {r['size']}: >= {GOAL:g} times as fast: {verdict}")
    headings = ["ours", "lightly", "times as long as ours", "peak, ours", "lightly"]
    return Sheet(
        "VICRegL's local loss, value and gradient, float32: median time (quartiles)",
        ["size", *headings],
        rows,
        ["peak: of memory beyond what was held before the call", *notes],
    )


def main(name: str, *size: str) -> None:
    """Prints the peak of one contender in this process, as JSON."""
    call = CONTENDERS[name](MapSize(*map(int, size)))
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(int(os.environ["NPROC"]))
    # What is made once, threads and the libraries' own buffers, is not the call's.
    call()
    _, found = peak.of(call)
    print(json.dumps({"peak": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
