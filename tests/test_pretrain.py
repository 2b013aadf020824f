"""The pretraining job: a whole run on the digits, and what it refuses."""

import io
import json
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib.image import imread
from rich.console import Console

from vicreg_jax import VICRegLoss
from vicreg_jax.augment import DigitViews
from vicreg_jax.nn import Expander, SmallResNet, VICReg
from vicreg_jax.optim import adamw, warmup_cosine
from vicreg_jax.pretrain import data
from vicreg_jax.pretrain.config import Config
from vicreg_jax.pretrain.loop import build, run
from vicreg_jax.pretrain.report import table
from vicreg_jax.pretrain.step import encode, train_step
from vicreg_jax.probe import Labelled, knn_probe, linear_probe, probes

QUIET = Console(file=io.StringIO())


@pytest.fixture
def relaxed_promotion(unchecked_signatures):
    """Lets Flax and Optax do what they do.

    Their schedules and batch norm mix dtypes, and `nnx.jit` rebuilds a `VICRegLoss`
    with placeholders for its weights, which no signature allows.
    """
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion")
def test_a_run_learns_and_writes_everything_down(tmp_path):
    config = Config(data="digits", epochs=8, out=tmp_path / "run")
    accuracies = run(config, QUIET)
    assert list(accuracies) == ["raw pixels", "untrained", "VICReg"]
    assert accuracies["VICReg"]["k-NN"] > accuracies["untrained"]["k-NN"]
    assert accuracies["VICReg"]["linear 100%"] > 0.88
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    assert [line["step"] for line in history] == list(range(8 * (1437 // 128)))
    for line in history:
        total = 25 * line["invariance"] + 25 * line["variance"] + line["covariance"]
        np.testing.assert_allclose(line["loss"], total, rtol=1e-5)
    assert history[-1]["loss"] < history[0]["loss"]
    assert json.loads((tmp_path / "run" / "probes.json").read_text()) == accuracies
    choices = json.loads((tmp_path / "run" / "config.json").read_text())
    assert choices["epochs"] == 8 and choices["views"]["grid"] == 4
    assert imread(tmp_path / "run" / "report.png").std() > 0.05
    with pytest.raises(FileExistsError, match="`out` must not hold a run already"):
        run(config, QUIET)


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion")
def test_a_run_stops_when_the_loss_is_not_finite(tmp_path):
    config = Config(data="digits", learning_rate=1e30, width=4, out=tmp_path)
    with pytest.raises(FloatingPointError, match="no longer finite at step"):
        run(config, QUIET)


def test_refuses_a_batch_larger_than_the_data(tmp_path):
    with pytest.raises(ValueError, match=r"`batch` must be at most .* 1437, got 2000"):
        run(Config(data="digits", batch=2000, out=tmp_path / "new"), QUIET)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name, value", [("batch", 1), ("width", 0), ("epochs", 0), ("warmup", 1.0)]
)
def test_refuses_what_could_not_run(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be at least .*, got {value}"):
        Config(**{name: value})


@pytest.mark.parametrize(
    "arguments, status, said",
    [
        (["--help"], 0, "Weight of the invariance term"),
        (["--data", "digits", "--batch", "1"], 2, "`batch` must be at least 2, got 1"),
        (["--data", "cats"], 2, "cats"),
    ],
)
def test_command_line(arguments, status, said):
    command = [sys.executable, "-m", "vicreg_jax.pretrain", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "name, side, images", [("mnist", 28, 5000), ("digits", 8, 1797)]
)
def test_held_out_images_are_not_trained_on(name, side, images):
    split = data.load(name)
    assert len(split.train.labels) + len(split.held_out.labels) == images
    assert split.train.pixels.shape[1:] == (side, side, 1)
    assert 0 == split.train.pixels.min() and split.train.pixels.max() == 1
    again = data.load(name)
    np.testing.assert_array_equal(split.held_out.pixels, again.held_out.pixels)
    tuning = data.load(name, evaluate_on="validation")
    seen = {image.tobytes() for part in tuning for image in part.pixels}
    repeated = {image.tobytes() for image in split.train.pixels}
    assert seen == repeated
    assert not seen & {image.tobytes() for image in split.held_out.pixels}


def test_an_epoch_shows_each_image_once():
    rows = np.concatenate(list(data.batches(np.random.default_rng(0), 103, 10)))
    assert len(rows) == len(set(rows)) == 100


@pytest.mark.usefixtures("relaxed_promotion")
def test_a_step_is_a_pure_function_of_state_images_and_key():
    config = Config(data="digits", width=4, expander=16)
    images = jnp.asarray(data.load("digits").train.pixels[:16])

    def updated(seed):
        model = build(config, side=8)
        tx = adamw(warmup_cosine(1e-2, steps=9, warmup_steps=0), weight_decay=1e-4)
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        metrics = train_step(
            model,
            optimizer,
            VICRegLoss(25.0, 25.0),
            images,
            jax.random.key(seed),
            views=DigitViews(),
        )
        return metrics, nnx.state(model)

    metrics, state = updated(0)
    chex.assert_tree_all_finite((metrics, jax.tree.leaves(state)))
    chex.assert_trees_all_equal(updated(0), (metrics, state))
    assert updated(1)[0].loss != metrics.loss
    before = jax.tree.leaves(nnx.state(build(config, side=8)))
    changed = [
        jnp.any(a != b) for a, b in zip(before, jax.tree.leaves(state), strict=True)
    ]
    assert sum(map(bool, changed)) > len(changed) // 2


@pytest.mark.usefixtures("relaxed_promotion")
def test_network_shapes_and_frozen_features():
    rngs = nnx.Rngs(0)
    encoder = SmallResNet([4, 8], blocks=2, channels=3, rngs=rngs)
    model = VICReg(encoder, Expander(8, 16, rngs=rngs))
    images = jax.random.normal(jax.random.key(0), (5, 12, 12, 3))
    assert model(images).shape == (5, 16)
    model.eval()
    features = encode(model, images)
    assert features.shape == (5, 8)
    # Frozen: the features of an image do not depend on its neighbours.
    np.testing.assert_allclose(encode(model, images[:2]), features[:2], atol=1e-6)


@pytest.mark.usefixtures("relaxed_promotion")
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


@pytest.mark.usefixtures("relaxed_promotion")
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

    def test_table_is_in_percent(self):
        console = Console(file=io.StringIO(), width=80)
        console.print(table({"VICReg": {"k-NN": 0.987}}, "Accuracy"))
        assert "98.7" in console.file.getvalue()
