"""What a run counts and traces: FLOPs, their share of the peak, and a profile."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from runs import MIRRORED, tiny, traced

from vicreg_jax.pretrain import speed
from vicreg_jax.pretrain.config import Launch
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.mesh import make_mesh
from vicreg_jax.pretrain.profile import Profile
from vicreg_jax.pretrain.speed import Speed, step_flops
from vicreg_jax.pretrain.step import Programs


@pytest.mark.parametrize(
    "chosen, found", [(range(2, 4), [2, 3]), (range(4, 99), [4]), (range(0), None)]
)
def test_a_profile_has_the_steps_that_were_chosen(tmp_path, chosen, found):
    state = jnp.ones(3)
    with Profile(chosen, tmp_path / "profile") as profile:
        for step in range(5):
            with profile(step, state):
                state = state + 1
    assert (tmp_path / "profile").exists() == (found is not None)
    if found:
        assert traced(tmp_path / "profile") == found


@pytest.mark.parametrize("profile", ["3", "3:0", "-1:2", "a:b", "1:2:3"])
def test_a_profile_must_be_a_step_and_a_count(profile):
    with pytest.raises(UsageError, match=f"--profile must be STEP:.*got '{profile}'"):
        Launch(profile=profile)


def test_a_profile_must_be_within_the_run():
    assert Launch(profile="7:3").profiled(10) == range(7, 10)
    assert Launch().profiled(10) == range(0)
    with pytest.raises(UsageError, match="--profile must name steps from 0 to 9, got"):
        Launch(profile="8:3").profiled(10)


def test_more_workers_than_cores_must_be_forced(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert Launch(workers=4).workers == 4
    with pytest.raises(UsageError, match="--workers must be at most 4, .*, got 5"):
        Launch(workers=5)
    assert Launch(workers=5, force_workers=True).workers == 5


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("TPU v5 lite", {"tflops_per_device": 98.5, "mfu": 0.5}),
        ("cpu", {"tflops_per_device": 98.5}),
    ],
)
def test_speed_is_that_since_the_last_call(monkeypatch, kind, expected):
    clock, waited = iter([10.0, 12.0]), iter([1.0, 1.5])
    monkeypatch.setattr(speed.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind=kind)])
    measured = Speed(batch=8, waited=lambda: next(waited))
    measured.flops = 19.7e12
    assert measured(4) == {}
    images = {"images_per_second": 40.0, "waiting": 0.25}
    assert measured(14) == pytest.approx(images | expected)


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
def test_parts_of_a_batch_do_not_change_its_flops():
    """A loop's body would count once, and what is computed again twice."""
    batch = jnp.zeros((16, 8, 8, 1), jnp.uint8), jnp.ones(16)
    found = []
    for parts, devices in ((1, 1), (2, 1), (2, 8)):
        config = tiny(batch=16, accumulate=parts, views=MIRRORED)
        programs = Programs(config, make_mesh(f"data={devices}"), 9)
        arguments = programs.state_shapes, *batch
        program = programs.train.lower(*arguments) if parts == 1 else None
        found.append(step_flops(programs, program, *arguments))
    assert found[1:] == [found[0], found[0] / 8]
