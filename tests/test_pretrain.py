"""The pretraining job: a whole run on the digits, and what it refuses."""

import dataclasses
import json
import math
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from grids import thinned
from matplotlib.image import imread
from runs import QUIET, tiny

from vicreg_jax.convert import load_state_dict, read
from vicreg_jax.pretrain import recipes, records
from vicreg_jax.pretrain.__main__ import parse
from vicreg_jax.pretrain.config import Config, Launch
from vicreg_jax.pretrain.export import export, newest, probe
from vicreg_jax.pretrain.loop import _whole_epochs
from vicreg_jax.pretrain.mesh import make_mesh
from vicreg_jax.pretrain.network import build
from vicreg_jax.pretrain.report import redraw
from vicreg_jax.pretrain.run import run

# Of a linear probe on all labels, after 8 epochs. Two seeds reached .958, as do raw
# pixels; without one term's gradient .869 to .911, with hardly a step .869.
LEARNED = 0.93


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
@pytest.mark.parametrize(
    "changes",
    [{"lambd": 0.0}, {"mu": 0.0}, {"nu": 0.0}, {"learning_rate": 1e-7}],
)
def test_a_run_without_a_term_or_a_step_does_not_learn(tmp_path, changes):
    """What the next test asks is out of its reach."""
    config = dataclasses.replace(recipes.digits(), epochs=8, **changes)
    launch = Launch(out=tmp_path, probe_every=0, tensorboard=False)
    assert run(config, launch, QUIET)["VICReg"]["linear 100%"] < LEARNED


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
def test_a_run_learns_and_writes_everything_down(tmp_path):
    out = tmp_path / "run"
    config = dataclasses.replace(recipes.digits(), epochs=8)
    accuracies = run(config, Launch(out=out, probe_every=4), QUIET)
    assert list(accuracies) == ["raw pixels", "untrained", "VICReg"]
    assert accuracies["VICReg"]["k-NN"] > accuracies["untrained"]["k-NN"]
    assert accuracies["VICReg"]["linear 100%"] > LEARNED
    history = records.read(out / "metrics.jsonl")
    assert [line["step"] for line in history] == list(range(8 * (1437 // 128)))
    for line in history:
        total = 25 * line["invariance"] + 25 * line["variance"] + line["covariance"]
        np.testing.assert_allclose(line["loss"], total, rtol=1e-5)
        assert 0 < line["std"] < 3 and line["gradient_norm"] > 0
    assert history[-1]["images_per_second"] > 0 and 0 <= history[-1]["waiting"] <= 1
    assert len({line["order"] for line in history}) == len(history)
    # One batch's loss is off by about 1; with hardly a step it falls by 0.25.
    assert history[-1]["loss"] < history[0]["loss"] - 2
    # Each term does its part: 1.4 without the invariance, .01 without the variance, 968
    # without the covariance.
    assert history[-1]["invariance"] < 0.5 and history[-1]["std"] > 0.4
    assert history[-1]["covariance"] < 50
    looks = records.read(out / "evaluations.jsonl")
    assert [line["epoch"] for line in looks] == [4, 8]
    assert looks[-1]["k-NN"] > 0.8 and looks[-1]["effective_rank"] > 5
    assert list((out / "tensorboard").iterdir())
    choices = json.loads((out / "config.json").read_text())
    assert choices["epochs"] == 8 and choices["views"]["grid"] == 4
    assert json.loads((out / "probes.json").read_text()) == accuracies
    with pytest.raises(FileExistsError, match="`out` must not hold a finished run"):
        run(config, Launch(out=out), QUIET)

    (out / "report.png").unlink()
    assert redraw(out) == accuracies
    assert imread(out / "report.png").std() > 0.05
    assert probe(out)["VICReg"] == accuracies["VICReg"]
    exported(out)


def exported(out):
    """Checks that the exported encoder is the run's."""
    tensors, arrays = export(out)
    programs, state = newest(out)
    images = jnp.linspace(0, 1, 5 * 64).reshape(5, 8, 8, 1)
    wanted = programs.network(state).encoder
    wanted.eval()
    other = build(dataclasses.replace(programs.config, seed=1)).encoder
    other.eval()
    assert jnp.any(other(images) != wanted(images))
    load_state_dict(other, read(tensors))
    np.testing.assert_array_equal(other(images), wanted(images))
    assert (arrays / "_METADATA").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
def test_a_run_stops_before_it_saves_what_is_not_finite(tmp_path):
    config = tiny(learning_rate=1e30, epochs=2)
    with pytest.raises(FloatingPointError, match="is no longer finite at step [1-9]"):
        run(config, Launch(out=tmp_path, tensorboard=False), QUIET)
    assert not list((tmp_path / "checkpoints").glob("*"))
    last = records.read(tmp_path / "metrics.jsonl")[-1]
    assert not all(math.isfinite(last[name]) for name in ("loss", "gradient_norm"))


def test_refuses_a_batch_larger_than_the_data(tmp_path):
    launch = Launch(out=tmp_path / "new")
    with pytest.raises(ValueError, match=r"`batch` must be at most .* 1437, .* 2000"):
        run(tiny(batch=2000), launch, QUIET)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name, value", [("batch", 1), ("width", 0), ("epochs", 0), ("warmup", 1.0)]
)
def test_refuses_what_could_not_run(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be at least .*, got {value}"):
        Config(**{name: value})


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"channels": 2}, "`channels` must be 1 or 3, got 2"),
        ({"accumulate": 3}, "`batch` must be a multiple of `accumulate`, 3, got 128"),
        ({"warmup": None, "epochs": 10}, "`epochs` must be above 10, .* got 10"),
    ],
)
def test_refuses_what_does_not_go_together(changes, said):
    with pytest.raises(ValueError, match=said):
        Config(**changes)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"log_every": 0}, "`log_every` must be at least 1, got 0"),
        ({"checkpoint_every": 0}, "`checkpoint_every` must be at least 1, got 0"),
        ({"distributed": True}, "`out` must be given"),
    ],
)
def test_refuses_what_could_not_be_carried_out(changes, said):
    with pytest.raises(ValueError, match=said):
        Launch(**changes)


@pytest.mark.parametrize(
    "epoch, between", [(1, 300), (62, 310), (300, 300), (625, 625)]
)
def test_checkpoints_are_whole_epochs_apart_but_not_too_near(epoch, between):
    assert _whole_epochs(epoch) == between


@pytest.mark.parametrize("mesh", ["data", "data=0", "data=2,data=2", "data=16", ""])
def test_refuses_a_mesh_that_is_none(mesh):
    with pytest.raises(ValueError, match="`mesh` must .*, got"):
        make_mesh(mesh)


def test_refuses_a_batch_that_does_not_spread(tmp_path):
    said = "`batch` must be a multiple of the 8 devices, got 100; `mesh` may name fewer"
    with pytest.raises(ValueError, match=said):
        run(tiny(batch=100), Launch(out=tmp_path), QUIET)


class TestCommandLine:
    @pytest.mark.parametrize(
        "arguments, status, said",
        [
            (["--help"], 0, "Weight of the invariance term"),
            (["--data", "cats"], 2, "`data` must be mnist, digits, elpv, or"),
            *thinned(
                [
                    (["--data", "digits", "--batch", "1"], 2, "`batch` must be at le"),
                    (["report", "nowhere"], 2, "`run` must be the folder of a finish"),
                    (["export", "nowhere"], 2, "`run` must be the folder of a run"),
                ],
                keep=[],
            ),
        ],
    )
    def test_ends_as_promised(self, arguments, status, said):
        command = [sys.executable, "-m", "vicreg_jax.pretrain", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == status
        assert said in done.stdout + done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(
        "arguments, recipe",
        [
            ([], recipes.mnist),
            (["--seed", "0"], recipes.mnist),
            (["digits"], recipes.digits),
            (["--data", "digits"], recipes.digits),
            (["--data=elpv"], recipes.elpv),
            (["cifar", "--data", "cifar-10-batches-py"], recipes.cifar),
            (["imagenet"], recipes.imagenet),
        ],
    )
    def test_recipes_by_name(self, arguments, recipe):
        assert parse(arguments).config == recipe()

    def test_any_choice_can_be_changed(self):
        arguments = ["imagenet", "--batch", "64", "--views.size", "96", "--out", "a"]
        job = parse([*arguments, "--mesh", "data=4,more=2", "--learning-rate", "0.1"])
        assert (job.config.batch, job.config.views.size) == (64, 96)
        assert job.config.learning_rate == 0.1 and job.config.encoder == "resnet50"
        assert (str(job.launch.out), job.launch.mesh) == ("a", "data=4,more=2")
