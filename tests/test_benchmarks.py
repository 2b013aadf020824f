"""The benchmarks: their statistics, their measure of memory, and that they run."""

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import quick_compilation
import rounding
from processes import PROGRAMS, completed
from reference import numpy_loss, rounding_bounds

from benchmarks import dense, jax_side, job, peak, results, step_jax, timing
from benchmarks.options import Options
from benchmarks.sizes import LOSS_SIZES, MEMORY_SIZES, QUICK_SIZES, Problem, Size
from benchmarks.timing import Budget, Spread

MIB = 2**20
JAX_LOSSES = (jax_side.ours, jax_side.plain)
proc = pytest.mark.skipif(
    sys.platform != "linux" or not peak.available(), reason="no peak to set back"
)


@pytest.mark.parametrize(
    "samples, expected",
    [
        ([3.0], (3, 3, 3, 1)),
        ([1.0, 3.0], (2, 1.5, 2.5, 2)),
        ([5.0, 1.0, 4.0, 2.0, 3.0], (3, 2, 4, 5)),
    ],
)
def test_spread(samples, expected):
    assert Spread.of(samples) == expected


def test_a_ratio_survives_drift():
    """A machine that gets ten times slower meanwhile does not change the ratio."""
    ours = {at: 1.0 * (10 if at >= 3 else 1) for at in range(8)}
    theirs = {at: 4.0 * (10 if at >= 3 else 1) for at in range(0, 8, 2)}
    found = timing.ratio(theirs, ours)
    assert found == (4, 4, 4, 4)
    assert timing.ratio({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    "estimate, turns", [(1e-3, 12), (0.1, 12), (0.3, 6), (2.0, 3), (19.0, 3), (21.0, 2)]
)
def test_slow_contenders_have_few_turns(estimate, turns):
    budget = Budget(seconds=1.5, rounds=12)
    assert len(range(0, budget.rounds, budget.stride(estimate))) == turns


def test_rounds_of_the_slow_are_rounds_of_the_fast():
    budget = Budget(seconds=0.02, turn=0.002, rounds=8)
    calls = {"fast": lambda: None, "slow": lambda: time.sleep(0.01)}
    times = timing.interleaved(calls, {"fast": 0.0, "slow": 0.01}, budget)
    assert list(times["fast"]) == list(range(8))
    assert list(times["slow"]) == [0, 2, 4, 6]
    assert min(times["slow"].values()) >= 0.01


def test_a_short_first_call_is_not_counted():
    waits = iter([0.02] + [0.0] * 10**6)
    assert timing.turn(lambda: time.sleep(next(waits)), 0.05) < 0.02


@proc
@pytest.mark.parametrize("kept", [True, False])
def test_a_known_allocation_is_seen(kept):
    """Also if it is freed before the call returns, which a look afterwards misses."""

    def call():
        block = np.ones(64 * MIB // 8)
        return block if kept else None

    _, found = peak.of(call)
    assert 63 * MIB <= found <= 66 * MIB


@proc
def test_an_earlier_peak_is_not_seen():
    peak.of(lambda: np.ones(64 * MIB // 8).sum())
    _, found = peak.of(lambda: None)
    assert found <= MIB


def total_bound(views):
    """Returns what rounding may do to the loss in float32, by either product."""
    bounds = [rounding_bounds(*views, rounding.UNIT, gram=form) for form in (0, 1)]
    return max(bound.total for bound in bounds)


@pytest.mark.parametrize("shape", [(12, 40), (40, 12)])
def test_the_floor_is_what_the_gradient_needs(shape):
    """Both forms of the products are the same matrix: the smaller one is chosen."""
    size = Size(*shape)
    z1, z2 = Problem(size, "float32").views()
    by_gram, by_covariance = (
        jax_side.products(z1, z2, gram=form) for form in (True, False)
    )
    for z, one, other in zip((z1, z2), by_gram, by_covariance, strict=True):
        # Either form adds over rows and over columns, and both are rounded.
        doubt = 2 * sum(map(rounding.of_sum, shape))
        bound = doubt * (abs(z) @ abs(z.T) @ abs(z))
        assert np.all(np.abs(one - other) <= bound)
    assert size.uses_gram == (shape[0] < shape[1])


def test_the_contenders_are_one_loss():
    torch = pytest.importorskip("torch")
    from benchmarks import torch_side

    views = Problem(Size(12, 40), "float32").views()
    tensors = tuple(map(torch.from_numpy, views))
    found = {loss: float(jax.jit(loss)(*views)) for loss in JAX_LOSSES}
    found["reference"] = float(torch_side.reference(*tensors))
    for name in ("quadra", "lightly", "solo_learn"):
        try:
            found[name] = float(torch_side.released(name)(*tensors))
        except torch_side.NotAvailable:
            continue
    exact, bound = numpy_loss(*views).total, total_bound(views)
    for name, value in found.items():
        assert abs(value - exact) <= bound, name


@pytest.mark.parametrize("given", ["sections", "seconds", "threads"])
def test_options_that_are_none(given):
    bad = {"sections": "los", "seconds": 0.0, "threads": 0}
    with pytest.raises(ValueError, match=f"`{given}` must be .*got"):
        Options(**{given: bad[given]})


def test_filter():
    options = Options(filter="2048x8192,float32,Ours,floor")
    names = [contender.name for contender in options.contenders("float32")]
    assert options.loss_sizes() == options.memory_sizes() == [Size(2048, 8192)]
    assert options.dtypes() == ["float32"]
    assert names == ["ours", "floor, JAX", "floor, PyTorch"]
    assert Options().loss_sizes() == list(LOSS_SIZES)
    assert Options().memory_sizes() == list(MEMORY_SIZES)


def test_quick_memory_takes_the_last_size_or_the_named_ones():
    assert Options(quick=True).memory_sizes() == list(QUICK_SIZES[-1:])
    named = Options(quick=True, filter="64x32,32x64").memory_sizes()
    assert named == [Size(64, 32), Size(32, 64)]


def test_memory_is_released_without_glibc(monkeypatch):
    monkeypatch.setattr(peak.ctypes, "CDLL", lambda name: object())
    peak.release()


def test_the_step_is_on_the_cpu(monkeypatch):
    """Also where JAX's first device is another: here, all others stand in for it."""
    first, *others = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda name=None: [first] if name else others)
    assert list(step_jax.cpu_mesh().devices) == [first]


def test_a_run_may_write_many_errors(tmp_path):
    assert (
        0
        < job._start([sys.executable, PROGRAMS / "logs_a_step.py"], tmp_path / "run")
        < 30
    )


def test_a_run_without_a_step_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "_PATIENCE", 0.5)
    with pytest.raises(RuntimeError, match=r"no step in 0.5 s: stuck"):
        job._start([sys.executable, "-S", PROGRAMS / "hangs.py"], tmp_path / "run")


def test_a_short_run_is_not_taken_for_a_long_one(tmp_path, monkeypatch):
    def trained(config, *, out, **_):
        out.mkdir()
        return SimpleNamespace(encoder=config.epochs)

    monkeypatch.setattr(dense, "pretrain", trained)
    monkeypatch.setattr(dense, "finished", Path.exists)
    monkeypatch.setattr(dense, "load_encoder", lambda out: "finished")
    short, long = (
        dataclasses.replace(dense.recipes.canvas(), epochs=n) for n in (2, 3)
    )
    runs = [dense._trained(config, 0, tmp_path) for config in (short, long, long)]
    assert runs == [2, 3, "finished"]


def test_markdown():
    sheet = results.Sheet("Title", ["a", "b"], [["x|y", "1"]], ["a note"])
    section = results.Section("loss", [], [sheet])
    text = results.markdown({"date": "today"}, [section], ["plot.png"])
    assert "date: today" in text
    assert "| a | b |\n| :-- | --: |\n| x/y | 1 |\n\n- a note" in text
    assert "![plot](plot.png)" in text


@pytest.mark.slow
def test_quick(tmp_path):
    """The command runs, and leaves figures, tables and plots."""
    pytest.importorskip("torch")
    # Its figures mean nothing, so that nothing needs to be fast.
    quick = quick_compilation.environment(os.environ["XLA_FLAGS"])
    done = completed("-m", "benchmarks", "--quick", "--out", tmp_path, **quick)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "results.json").read_text())
    about = {"date", "machine", "instruction set", "threads", "jax"}
    assert about <= found["about"].keys()
    for section in ("loss", "step", "probe", "job", "startup"):
        assert found["records"][section]
    for record in found["records"]["loss"]:
        assert record["seconds"]["ours"]["median"] > 0
        assert record["over_floor"]["median"] > 0
        values = record["values"].values()
        views = Problem(Size(record["n"], record["d"]), "float32").views()
        # PyTorch rounds up to five scalars to bfloat16 between a term's mean and the
        # loss, by 2^-8 each. Roundings of entries average out to less than one more.
        bounds = {"float32": total_bound(views), "bfloat16": 6 * 2.0**-8 * max(values)}
        assert max(values) - min(values) <= 2 * bounds[record["dtype"]]
    assert "QUICK" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "ratio_to_floor.png").stat().st_size > 10_000
