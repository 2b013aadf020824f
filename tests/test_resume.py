"""Runs that are killed or stopped, and resumed: the result is the same bit by bit."""

import random
import re
import resource
import signal
import time
from types import SimpleNamespace

import few_digits
import numpy as np
import pytest
from grids import thinned
from interruption import interrupted, tell_to_stop
from processes import (
    NO_ROOM,
    checkpoints,
    end,
    start,
    started,
    wait_for,
)
from reference_run import STEPS
from runs import QUIET, checksum, seen, tiny

from vicreg_jax.pretrain import run
from vicreg_jax.pretrain.checkpoints import Checkpoints, Restored
from vicreg_jax.pretrain.config import Launch


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Flags for the images of the runs."""
    return few_digits.unlabeled(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    with started(start(out, *data)) as (process,):
        status, printed = end(process)
    assert status == 0, printed
    assert [line["step"] for line in seen(out)] == list(range(STEPS))
    return out


@pytest.mark.parametrize(
    "restored, state, computed",
    [(None, "weights of --init", 1), (Restored(1, "restored"), "restored", 0)],
)
def test_what_a_run_with_checkpoints_goes_on_from(
    tmp_path, monkeypatch, unchecked_signatures, restored, state, computed
):
    """The newest undamaged one or, if there is none, what it began with."""
    started = []
    programs = SimpleNamespace(
        config=tiny(init="a"),
        steps_per_epoch=1,
        rate=lambda step: np.float32(0),
        state_shapes=None,
        start=lambda: started.append("computed"),
    )
    loop = SimpleNamespace(
        programs=programs,
        datasets=SimpleNamespace(train=None),
        train_iterator=SimpleNamespace(seek=lambda step: None),
        launch=Launch(tensorboard=False),
        console=QUIET,
        profiled=range(0),
        run=lambda state, *_: state,
    )
    monkeypatch.setattr(Checkpoints, "restore", lambda *_: restored)
    monkeypatch.setattr(run, "load_init", lambda _: "weights of --init")
    monkeypatch.setattr(run, "initialized", lambda _, state, weights: weights)
    for name in ("describe", "draw_views", "record"):
        monkeypatch.setattr(run.start, name, lambda *_: None)
    assert run._pretrain(loop, tmp_path, None) == state
    assert len(started) == computed


@pytest.mark.parametrize("kills", thinned([1, 2], keep=[1]))
def test_killed_at_any_moment_it_goes_on(
    whole, data, tmp_path, unchecked_signatures, kills
):
    """Killed soon after a checkpoint, and once more in the second half."""
    seed = random.randrange(1000)
    print("seed", seed)  # shown where the test fails
    moments, status = random.Random(seed), None
    for step in (0, STEPS // 2)[:kills]:
        with started(start(tmp_path, *data)) as (process,):
            wait_for(lambda step=step: max(checkpoints(tmp_path), default=0) > step)
            # It may now be in a step, in a save or in the middle of a line.
            time.sleep(moments.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            status, printed = end(process)
        if status == 0:
            break  # it was faster than the signal, and is finished
        assert status == -signal.SIGKILL, printed
    if status != 0:
        with started(start(tmp_path, *data)) as (process,):
            status, printed = end(process)
        assert status == 0, printed
        assert "Going on after step" in printed
    assert seen(tmp_path) == seen(whole)
    assert checksum(tmp_path) == checksum(whole)


@pytest.mark.slow
def test_no_room_ends_it_until_there_is(whole, data, tmp_path, unchecked_signatures):
    def fill(processes):
        resource.prlimit(processes[0].pid, resource.RLIMIT_FSIZE, (0, 0))

    out, [(status, printed)] = interrupted(
        tmp_path, lambda out: [start(out, *data, "--tensorboard")], fill
    )
    assert status == 2, printed
    assert re.search(NO_ROOM, printed), printed
    with started(start(out, *data)) as (process,):
        status, printed = end(process)
    assert status == 0 and "Going on after step" in printed, printed
    assert seen(out) == seen(whole)
    assert checksum(out) == checksum(whole)


@pytest.mark.slow
def test_told_to_stop_it_saves_first(whole, data, tmp_path, unchecked_signatures):
    out, [(status, printed)] = interrupted(
        tmp_path, lambda out: [start(out, *data)], tell_to_stop
    )
    assert status == 75, printed
    stopped = checkpoints(out)[-1]
    assert f"saved after step {stopped}; the same command resumes the run" in printed
    assert len(seen(out)) == stopped < STEPS
    with started(start(out, *data, "--epochs", "2")) as (process,):
        status, printed = end(process)
    assert status == 2 and "--epochs must be at least 3 as in the run" in printed
    with started(start(out, *data)) as (process,):
        status, printed = end(process)
    assert status == 0 and f"Going on after step {stopped}" in printed
    assert seen(out) == seen(whole)
    assert checksum(out) == checksum(whole)
