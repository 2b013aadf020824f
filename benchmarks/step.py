"""The step section: one step of the mnist recipe, and the loss's share of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks import timing
from benchmarks.options import Options
from benchmarks.results import Section, Sheet, not_run, spread
from benchmarks.timing import Budget, Call, Spread, Times
from vicreg_jax.pretrain import recipes
from vicreg_jax.pretrain.config import Config

OURS, TORCH = "ours", "PyTorch"
WHOLE = "ours, with augmentation"
PLAIN = "mean of squares"


def run(options: Options, progress) -> Section:
    """Measures the step in both frameworks, with the loss and without.

    Args:
        options: of the command line.
        progress: called with what is being done.
    """
    builders, missing = _builders(options.quick)
    if not builders:
        return not_run("step", missing[0])
    calls: dict[str, Call] = {}
    estimates: dict[str, float] = {}
    for name, build in builders.items():
        progress(f"step {name}")
        calls[name] = build()
        calls[name]()  # compiles
        _, estimates[name] = timing.warmed_up(calls[name])
    budget = options.budget if options.quick else Budget(6, turn=0.3, rounds=16)
    progress("step")
    times = timing.interleaved(calls, estimates, budget)
    records = _records(times, batch=_config(options.quick).batch)
    return Section("step", records, [_sheet(records, missing)])


def _config(quick: bool) -> Config:
    config = recipes.mnist()
    small = {"batch": 16, "width": 4, "expander": 64}
    return dataclasses.replace(config, **small) if quick else config


def _builders(quick: bool) -> tuple[dict[str, Callable[[], Call]], list[str]]:
    """Returns what builds each step, and why others are missing."""
    builders: dict[str, Callable[[], Call]] = {}
    missing = []
    try:
        from benchmarks import step_jax
    except ImportError as error:
        return {}, [f"needs `pip install vicreg_jax[pretrain]`: {error}"]
    config = _config(quick)
    rng = np.random.default_rng(0)
    # What they show does not matter to time.
    first, second = rng.random(
        (2, config.batch, config.size, config.size, 1), np.float32
    )
    for loss in step_jax.LOSSES:
        name = _name(OURS, loss)
        builders[name] = partial(step_jax.build, config, (first, second), loss)
    if not quick:  # compiling the augmentation takes longest
        builders[WHOLE] = partial(step_jax.build_whole, config, first)
    try:
        from benchmarks import step_torch
    except ImportError as error:
        missing.append(f"PyTorch: {error}")
    else:
        for loss in step_torch.LOSSES:
            name = _name(TORCH, loss)
            builders[name] = partial(step_torch.build, config, (first, second), loss)
    return builders, missing


def _name(side: str, loss: str) -> str:
    return side if loss == "loss" else f"{side}, {PLAIN}"


def _records(times: dict[str, Times], batch: int) -> list[dict]:
    records = []
    for name, by_round in times.items():
        found = Spread.of(by_round.values())
        record = {"name": name, "batch": batch, "seconds": found._asdict()}
        record["images_per_second"] = batch / found.median
        rest = times.get(_name(name, PLAIN))
        if rest:
            left = timing.ratio(rest, by_round)
            record["loss_share"] = 1 - left.median if left else None
        against = timing.ratio(by_round, times[OURS])
        record["times_ours"] = against._asdict() if against else None
        records.append(record)
    return records


def _sheet(records: list[dict], missing: list[str]) -> Sheet:
    rows = []
    for r in records:
        share, against = r.get("loss_share"), r["times_ours"]
        rows.append(
            [
                r["name"],
                spread(r["seconds"]),
                f"{r['images_per_second']:.0f}",
                "" if share is None else f"{100 * share:.1f}%",
                "" if against is None else f"{against['median']:.2f}",
            ]
        )
    return Sheet(
        f"Step of the mnist recipe, {records[0]['batch']} images: network, loss, AdamW",
        ["step", "median (quartiles)", "images/s", "loss's share", "times ours"],
        rows,
        [
            "without augmentation in both frameworks, but where it is said",
            f"loss's share: 1 - time with {PLAIN} instead of the loss / time",
            *missing,
        ],
    )
