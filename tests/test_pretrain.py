"""The pretraining job: a whole run on the digits, and what it refuses."""

import dataclasses
import io
import json
import math
import subprocess
import sys
from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib.image import imread
from rich.console import Console

from vicreg_jax import vicreg_terms
from vicreg_jax.augment import DigitViews, ImageViews
from vicreg_jax.convert import load_state_dict, read
from vicreg_jax.optim import adamw, warmup_cosine
from vicreg_jax.pretrain import data, evaluation, folder, metrics, recipes
from vicreg_jax.pretrain.__main__ import parse
from vicreg_jax.pretrain.config import Config, Launch
from vicreg_jax.pretrain.export import export, newest, probe
from vicreg_jax.pretrain.mesh import by_rows, make_mesh
from vicreg_jax.pretrain.model import build, draw_views
from vicreg_jax.pretrain.report import redraw, table
from vicreg_jax.pretrain.run import run
from vicreg_jax.pretrain.state import Metrics
from vicreg_jax.pretrain.step import Programs
from vicreg_jax.probe import (
    Labelled,
    detection_probe,
    knn_probe,
    linear_probe,
    probes,
)

QUIET = Console(file=io.StringIO())


def tiny(**changes):
    """Returns a run of a few seconds."""
    small = {"width": 4, "expander": 16, "epochs": 1}
    return dataclasses.replace(recipes.digits(), **(small | changes))


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
def test_a_run_learns_and_writes_everything_down(tmp_path, monkeypatch):
    out = tmp_path / "run"
    config = dataclasses.replace(recipes.digits(), epochs=8)
    accuracies = run(config, Launch(out=out, probe_every=4), QUIET)
    assert list(accuracies) == ["raw pixels", "untrained", "VICReg"]
    assert accuracies["VICReg"]["k-NN"] > accuracies["untrained"]["k-NN"]
    assert accuracies["VICReg"]["linear 100%"] > 0.88
    history = metrics.read(out / "metrics.jsonl")
    assert [line["step"] for line in history] == list(range(8 * (1437 // 128)))
    for line in history:
        total = 25 * line["invariance"] + 25 * line["variance"] + line["covariance"]
        np.testing.assert_allclose(line["loss"], total, rtol=1e-5)
        assert 0 < line["std"] < 3 and line["gradient_norm"] > 0
    assert history[-1]["images_per_second"] > 0 and 0 <= history[-1]["waiting"] <= 1
    assert len({line["order"] for line in history}) == len(history)
    assert history[-1]["loss"] < history[0]["loss"]
    looks = metrics.read(out / "evaluations.jsonl")
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
    last = metrics.read(tmp_path / "metrics.jsonl")[-1]
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
            (["--data", "digits", "--batch", "1"], 2, "`batch` must be at least 2"),
            (["--data", "cats"], 2, "`data` must be mnist, digits, elpv, or"),
            (["report", "nowhere"], 2, "`run` must be the folder of a finished run"),
            (["export", "nowhere"], 2, "`run` must be the folder of a run"),
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


class TestFolder:
    def test_another_configuration_is_refused(self, tmp_path):
        launch = Launch(out=tmp_path)
        with folder.claim(tiny(), launch):
            pass
        said = r"`epochs` must be 1 as in the run .*, got 2; for another run give"
        with (
            pytest.raises(ValueError, match=said),
            folder.claim(tiny(epochs=2), launch),
        ):
            pass

    def test_two_processes_do_not_share_one(self, tmp_path):
        launch = Launch(out=tmp_path)
        with (
            folder.claim(tiny(), launch),
            pytest.raises(FileExistsError, match="`out` must not be in use"),
            folder.claim(tiny(), launch),
        ):
            pass

    def test_the_same_command_finds_its_unfinished_run(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with folder.claim(tiny(), Launch()) as first:
            assert first.parent.name == "runs"
            assert folder._unfinished(tiny()) is None
        with folder.claim(tiny(), Launch()) as again:
            assert again == first
        assert folder._unfinished(tiny(seed=1)) is None
        folder.write_json(first / "probes.json", {})
        assert folder._unfinished(tiny()) is None

    @pytest.mark.parametrize("recipe", recipes.RECIPES.values())
    def test_a_configuration_survives_its_file(self, recipe, tmp_path):
        folder.write_json(tmp_path / "config.json", folder.choices(recipe()))
        assert folder.read_config(tmp_path) == recipe()

    def test_no_run(self, tmp_path):
        with pytest.raises(ValueError, match="`run` must be the folder of a run, got"):
            folder.read_config(tmp_path)


class TestLog:
    def log(self, tmp_path, first=0):
        return metrics.Log(
            tmp_path,
            steps_per_epoch=2,
            batch=8,
            first=first,
            waited=lambda: 0.0,
            tensorboard=False,
        )

    def step(self, **changes):
        usual = Metrics(*map(jnp.asarray, (3.0, 0.1, 0.2, 0.3, 1.0, 0.01, 2.0)))
        return usual._replace(**changes)

    def test_steps_are_written_once_and_late(self, tmp_path):
        log = self.log(tmp_path)
        for step in range(3):
            log.add(step, self.step(), order=step)
        assert log.write(leave=1)["step"] == 1
        assert log.write()["step"] == 2 and log.write() is None
        lines = metrics.read(tmp_path / "metrics.jsonl")
        assert [line["step"] for line in lines] == [0, 1, 2]
        assert [line["epoch"] for line in lines] == [0, 0, 1]
        assert lines[2]["order"] == "0000000000000002"
        assert list(lines[0])[:4] == ["step", "epoch", "loss", "invariance"]

    def test_what_came_after_the_checkpoint_is_taken_out(self, tmp_path):
        log = self.log(tmp_path)
        for step in range(4):
            log.add(step, self.step(), order=0)
            log.look({"step": step + 1})
        log.write()
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 4, "ep')  # cut off by a crash
        self.log(tmp_path, first=2)
        steps = metrics.read(tmp_path / "metrics.jsonl")
        looks = metrics.read(tmp_path / "evaluations.jsonl")
        assert [line["step"] for line in steps] == [0, 1]
        assert [line["step"] for line in looks] == [1, 2]

    @pytest.mark.parametrize("name", ["covariance", "gradient_norm"])
    def test_the_step_and_the_term_that_broke(self, tmp_path, name):
        log = self.log(tmp_path)
        for step in range(3):
            value = jnp.asarray(jnp.nan if step else 1.0)
            log.add(step, self.step(**{name: value}), order=0)
        said = f"the {name.replace('_', ' ')} is no longer finite at step 1"
        with pytest.raises(FloatingPointError, match=said):
            log.write()


@pytest.mark.parametrize("name, images", [("mnist", 5000), ("digits", 1797)])
def test_held_out_images_are_not_trained_on(name, images):
    def shown(source):
        return {source[i].image.tobytes() for i in range(len(source))}

    config = recipes.RECIPES[name]()
    test = data.load(config)
    assert len(test.train) + len(test.held_out) == images
    tuning = data.load(dataclasses.replace(config, evaluate_on="validation"))
    seen = shown(tuning.train) | shown(tuning.held_out)
    assert seen == shown(test.train)
    assert not seen & shown(test.held_out)


def test_images_without_labels_and_of_another_size(tmp_path):
    images = np.zeros((20, 8, 8), np.uint8)
    np.save(tmp_path / "images.npy", images)
    config = tiny(data=str(tmp_path / "images.npy"))
    assert data.load(config).held_out is None
    with pytest.raises(ValueError, match="`data` must have labels where `test_data`"):
        data.load(dataclasses.replace(config, test_data="digits"))
    with pytest.raises(ValueError, match=r"`size` and .* \(8, 8, 1\), got \(9, 9, 1\)"):
        data.load(dataclasses.replace(config, size=9))


def test_some_images_are_the_same_ones_each_time():
    source = data.load(tiny()).train
    first, again = (data.some(source, 10) for _ in range(2))
    np.testing.assert_array_equal(first.chosen, again.chosen)
    assert len(first) == 10 and data.some(source, 10_000) is source


@cache
def compiled(config, mesh):
    return Programs(config, make_mesh(mesh), steps_per_epoch=9)


@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
class TestStep:
    images = np.random.default_rng(0).integers(0, 255, (16, 8, 8, 1), np.uint8)

    def updated(self, mesh, **changes):
        programs = compiled(tiny(**changes), mesh)
        aspect = np.ones(16, np.float32)
        batch = jax.device_put((self.images, aspect), by_rows(programs.mesh))
        state = programs.start()
        for _ in range(2):
            state, metrics = programs.train(state, *batch)
        return jax.device_get((state, metrics))

    def test_it_is_a_pure_function_of_state_and_images(self):
        state, found = self.updated("data=1")
        assert state.step == 2
        chex.assert_tree_all_finite(state)
        chex.assert_trees_all_equal(self.updated("data=1"), (state, found))
        start = jax.device_get(compiled(tiny(), "data=1").start())
        changed = jax.tree.map(lambda a, b: np.any(a != b), state.params, start.params)
        assert sum(jax.tree.leaves(changed)) > len(jax.tree.leaves(changed)) // 2

    @pytest.mark.parametrize("mesh", ["data=8", "data=4,more=2"])
    def test_devices_change_rounding_only(self, mesh):
        (one, wanted), (many, found) = self.updated("data=1"), self.updated(mesh)
        chex.assert_trees_all_close(found, wanted, rtol=2e-4, atol=1e-6)
        chex.assert_trees_all_close(many.stats, one.stats, rtol=1e-4, atol=1e-5)

    def test_parts_of_a_batch_meet_in_the_loss(self):
        """Every second row passes by itself, the loss sees all of them in order."""
        programs = compiled(tiny(accumulate=2), "data=1")
        state = programs.start()
        model = programs.network(state)
        key = jax.random.fold_in(jax.random.key(0), 0)
        aspect = jnp.ones(16)
        pair = draw_views(programs.config, key, jnp.asarray(self.images), aspect)
        parts = [[model(view[part::2]) for view in pair] for part in range(2)]
        joined = (
            jnp.stack([parts[0][view], parts[1][view]], 1).reshape(16, -1)
            for view in range(2)
        )
        wanted = vicreg_terms(*joined)
        state, found = programs.train(state, self.images, aspect)
        np.testing.assert_allclose(found[1:4], wanted, rtol=1e-5)
        stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        chex.assert_trees_all_close(state.stats, stats, rtol=1e-5, atol=1e-6)

    def test_half_precision_keeps_whole_parameters(self):
        state, found = self.updated(
            "data=8", dtype="bfloat16", views=ImageViews(size=8)
        )
        assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {
            "float32"
        }
        assert found.loss.dtype == np.float32 and np.isfinite(found.loss)

    def test_frozen_features_do_not_depend_on_their_neighbours(self):
        programs = compiled(tiny(), "data=2")
        source = data.some(data.load(tiny()).train, 130)
        state = programs.start()
        found = evaluation.features(programs, state, source)
        assert found.features.shape == (130, 16)  # one batch and two rows of another
        np.testing.assert_array_equal(found.labels, source.labels)
        few = evaluation.features(programs, state, data.Subset(source, np.arange(3)))
        np.testing.assert_allclose(few.features, found.features[:3], atol=1e-6)


class TestHealth:
    healthy = {"collapsed": 0.0, "effective_rank": 30.0}
    healthy |= {"covariance": 6.5, "covariance_floor": 3.0}

    def test_collapse_is_said_in_plain_words(self):
        assert evaluation.warning(self.healthy) is None
        flat = self.healthy | {"collapsed": 0.75}
        assert "75% of their columns hardly vary" in evaluation.warning(flat)
        line = self.healthy | {"effective_rank": 1.1}
        assert "along one direction only" in evaluation.warning(line)

    def test_covariance_is_said_beside_its_floor(self):
        said = evaluation.explained(self.healthy | {"k-NN": 0.5}, 2048, 8192)
        assert "k-NN 50.0%, effective rank 30 of 2048" in said
        assert "covariance 6.50 (3.00 at least, with 2048 images a batch)" in said


@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
class TestViews:
    images = jnp.zeros((3, 12, 12, 1)).at[:, 4:8, 5:7].set(1.0)

    def test_no_distortion_is_the_image(self):
        still = DigitViews(0.0, 0.0, 0.0, 0.0, 0.0, pen=0.0)
        seen = still(jax.random.key(0), self.images)
        np.testing.assert_allclose(seen, self.images, atol=1e-5)

    def test_each_image_gets_its_own(self):
        first = DigitViews()(jax.random.key(0), self.images)
        assert first.shape == self.images.shape
        assert 0 <= first.min() and first.max() <= 1 + 1e-6
        assert jnp.any(first[0] != first[1])
        assert jnp.any(first != DigitViews()(jax.random.key(1), self.images))

    def test_pen_thickens_and_thins(self):
        pen = DigitViews(0.0, 0.0, 0.0, 0.0, 0.0, pen=1.0)
        ink = jnp.stack(
            [pen(jax.random.key(k), self.images).sum((1, 2, 3)) for k in range(8)]
        )
        assert ink.min() < 8 < ink.max()


def test_schedule_rises_then_falls_to_a_thousandth():
    schedule = warmup_cosine(2.0, steps=100, warmup_steps=10)
    rates = [float(schedule(step)) for step in (0, 5, 10, 55, 100)]
    np.testing.assert_allclose(rates, [0, 1, 2, (2 + 0.002) / 2, 0.002], rtol=1e-5)


@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
def test_only_matrices_decay():
    params = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}
    tx = adamw(lambda _: 1.0, weight_decay=0.1)
    updates, _ = tx.update(
        jax.tree.map(jnp.zeros_like, params), tx.init(params), params
    )
    np.testing.assert_allclose(updates["kernel"], -0.1, rtol=1e-6)
    np.testing.assert_array_equal(updates["scale"], 0)


class TestProbes:
    def clusters(self, spread, samples=400):
        rng = np.random.default_rng(0)
        labels = np.arange(samples) % 4
        features = np.eye(4)[labels] + spread * rng.standard_normal((samples, 4))
        return Labelled(features, labels)

    def test_separable_classes_are_found(self):
        features = self.clusters(0.05)
        assert linear_probe(features, features, share=0.1) == 1
        assert knn_probe(features, features) == 1

    def test_noise_is_not_learned(self):
        noise = self.clusters(0.0)._replace(
            features=np.random.default_rng(1).standard_normal((400, 4))
        )
        other = noise._replace(features=noise.features[::-1])
        assert knn_probe(noise, other) < 0.45

    def test_a_share_without_a_label_for_each_class_is_left_out(self):
        few = self.clusters(0.05, samples=120)
        assert list(probes(few, few)) == ["linear 10%", "linear 100%", "k-NN"]

    def test_detection_does_not_depend_on_the_threshold(self):
        rng = np.random.default_rng(0)
        labels = (rng.random(500) < 0.1).astype(int)  # a rare defect
        features = rng.standard_normal((500, 3)) + 2 * labels[:, None]
        half = [Labelled(features[i::2], labels[i::2]) for i in (0, 1)]
        # One column in the direction of the defect: ranked as that column ranks.
        assert 0.95 < detection_probe(*half) <= 1
        assert probes(*half)["ROC AUC"] == detection_probe(*half)
        noise = [part._replace(features=rng.standard_normal((250, 3))) for part in half]
        assert abs(detection_probe(*noise) - 0.5) < 0.2

    def test_table_is_in_percent(self):
        console = Console(file=io.StringIO(), width=80)
        console.print(table({"VICReg": {"k-NN": 0.987}}, "Accuracy"))
        assert "98.7" in console.file.getvalue()
