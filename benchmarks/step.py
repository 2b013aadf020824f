"""The step section: one step of `vicreg-pretrain`, beside the same in PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax

from benchmarks import timing
from benchmarks.options import Options
from benchmarks.results import Section, Sheet, not_run, spread
from benchmarks.timing import Budget, Call, Spread, Times
from vicreg_jax.pretrain import recipes
from vicreg_jax.pretrain.config import Config

OURS, TORCH = "ours", "PyTorch"
WITHOUT_LOSS = "mean of squares"
AUGMENTED, YNNPACK = "ours, with augmentation", "ours, with YNNPACK"
GOAL = 1.0  # times PyTorch's step


class Case(NamedTuple):
    """A step to measure.

    Attributes:
        name: Name in the tables.
        config: Configuration of the run.
        rounds: Most rounds in which the contenders take turns.
    """

    name: str
    config: Config
    rounds: int


def run(options: Options, progress) -> Section:
    """Measures the steps in both frameworks, with and without the loss.

    Args:
        options: The parsed command line.
        progress: Called with a description of each part.
    """
    records, sheets = [], []
    for case in cases(options.quick):
        builders, missing = _builders(case.config, options.quick)
        if not builders:
            return not_run("step", missing[0])
        # Where PyTorch's step runs.
        with jax.default_device(jax.devices("cpu")[0]):
            times = _measured(case, builders, options, progress)
        found = _records(times, case)
        records += found
        sheets.append(_sheet(case, found, missing))
    return Section("step", records, sheets)


def cases(quick: bool) -> list[Case]:
    """Returns the steps to measure, or small ones if `quick`."""
    mnist = recipes.mnist()
    # AdamW, which both frameworks have; a batch and a dtype for CPUs.
    resnet = dataclasses.replace(
        recipes.cifar(), optimizer="adamw", batch=32, dtype="float32"
    )
    if quick:
        # On one thread and without AVX-512, PyTorch 2.13 crashes in the gradient of
        # convolutions with fewer than 8 channels.
        small = {"batch": 16, "width": 8, "expander": 64}
        mnist = dataclasses.replace(mnist, **small)
        resnet = dataclasses.replace(resnet, size=8, **small)
    return [
        Case("the mnist recipe", mnist, 16),
        Case("ResNet-18 on 32x32 images, the cifar recipe's network", resnet, 7),
    ]


def _measured(case, builders, options, progress) -> dict[str, Times]:
    calls: dict[str, Call] = {}
    estimates: dict[str, float] = {}
    for name, build in builders.items():
        progress(f"step {case.name}: {name}")
        calls[name] = build()
        calls[name]()  # compiles
        _, estimates[name] = timing.warmed_up(calls[name])
    budget = options.budget
    if not options.quick:
        budget = Budget(6, turn=0.3, rounds=case.rounds)
    progress(f"step {case.name}")
    return timing.interleaved(calls, estimates, budget)


def _builders(config: Config, quick: bool):
    """Returns functions that build the steps, and why others are missing."""
    builders: dict[str, Callable[[], Call]] = {}
    missing = []
    try:
        from benchmarks import step_jax
    except ImportError as error:
        return {}, [f"needs `pip install vicreg_jax[pretrain]`: {error}"]
    builders[OURS] = partial(step_jax.build, config)
    without = partial(step_jax.build, config, programs=step_jax.WithoutLoss)
    builders[f"{OURS}, {WITHOUT_LOSS}"] = without
    if not quick:
        builders[AUGMENTED] = partial(step_jax.build, config, augmented=True)
        if step_jax.has_ynnpack():
            with_it = partial(step_jax.build, config, programs=step_jax.WithYnnpack)
            builders[YNNPACK] = with_it
    builders |= dict(_in_torch(config, missing))
    return builders, missing


def _in_torch(config, missing) -> Iterator[tuple[str, Callable[[], Call]]]:
    try:
        from benchmarks import step_torch
    except ImportError as error:
        missing.append(f"PyTorch: {error}")
        return
    yield TORCH, partial(step_torch.build, config)
    without = partial(step_torch.build, config, loss=step_torch.mean_of_squares)
    yield f"{TORCH}, {WITHOUT_LOSS}", without


def _records(times: dict[str, Times], case: Case) -> list[dict]:
    batch, records = case.config.batch, []
    for name, by_round in times.items():
        found = Spread.of(by_round.values())
        record = {"case": case.name, "name": name, "batch": batch}
        record["seconds"] = found._asdict()
        record["images_per_second"] = batch / found.median
        rest = times.get(f"{name}, {WITHOUT_LOSS}")
        if rest:
            # Of each round by itself, since the speed of the machine drifts between
            # rounds.
            left = timing.ratio(rest, by_round)
            record["loss_share"] = 1 - left.median if left else None
        against = timing.ratio(by_round, times[OURS])
        record["times_ours"] = against._asdict() if against else None
        records.append(record)
    return records


def _sheet(case: Case, records: list[dict], missing: list[str]) -> Sheet:
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
        f"Training step of {case.name}, {case.config.batch} images, float32",
        ["step", "median (quartiles)", "images/s", "loss's share", "times ours"],
        rows,
        [
            "ours is `Programs.train`, the step that `vicreg-pretrain` runs, on views "
            "that are drawn before, as in PyTorch",
            "network, loss and AdamW in both frameworks; PyTorch in channels last",
            f"loss's share: 1 - time with a {WITHOUT_LOSS} as the loss / time",
            *_goal(records),
            *missing,
        ],
    )


def _goal(records: list[dict]) -> Iterator[str]:
    for r in records:
        if r["name"] == TORCH and r["times_ours"]:
            found = 1 / r["times_ours"]["median"]
            met = "met" if found <= GOAL else "NOT MET"
            yield f"goal: at most {GOAL:g} times PyTorch's step; {found:.2f}: {met}"
