"""VICRegL and local views in the job: the step, runs that resume, and the canvases."""

import dataclasses
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from rich.console import Console
from runs import InterruptsRun, tiny

from benchmarks.mirrored import MirroredViews
from vicreg_jax import aot, multiview_loss
from vicreg_jax.augment import ImageViews, Place
from vicreg_jax.local import VICRegLLoss
from vicreg_jax.nn import SmallResNet
from vicreg_jax.pretrain import Run, pretrain, recipes, records
from vicreg_jax.pretrain.compile_only import compile_only
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.input import canvas
from vicreg_jax.pretrain.mesh import by_rows, make_mesh
from vicreg_jax.pretrain.network import build
from vicreg_jax.pretrain.objective import vicregl_terms
from vicreg_jax.pretrain.processes import Interrupted
from vicreg_jax.pretrain.step import Programs

pytestmark = pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
IMAGES = np.random.default_rng(0).integers(0, 255, (16, 16, 16, 1), np.uint8)
ASPECT = np.ones(16, np.float32)


@dataclasses.dataclass(frozen=True)
class QuarterViews(MirroredViews):
    """The image, its mirror image and its upper left quarter."""

    def located(self, key, images, aspect):
        first, second = self.pair(key, images, aspect)
        half = self.size // 2
        zero = jnp.zeros_like(aspect)
        whole = Place(zero, zero, zero + 1, zero + 1, aspect, flipped=zero > 0)
        quarter = whole._replace(height=zero + 0.5, width=zero + 0.5)
        places = (whole, whole._replace(flipped=zero == 0), quarter)
        return (first, second, first[:, :half, :half]), places


def config(**changes):
    settings = {"alpha": 0.75, "local_expander": 8, "location_matches": (3, 1)}
    views = QuarterViews(16)
    return tiny(**{"size": 16, "views": views, "batch": 16} | settings | changes)


@cache
def programs(mesh, **changes):
    return Programs(config(**changes), make_mesh(mesh), steps_per_epoch=9)


def stepped(mesh="data=1", **changes):
    """Returns the state and the metrics after one step."""
    of_mesh = programs(mesh, **changes)
    batch = jax.device_put((IMAGES, ASPECT), by_rows(of_mesh.mesh))
    return jax.device_get(of_mesh.train(of_mesh.start(), *batch))


def in_plain_words(found, state):
    """Returns the loss and its terms by the library's own words."""
    config, model = found.config, found.network(state)
    views, places = QuarterViews(16).located(jax.random.key(0), IMAGES, ASPECT)
    outputs = [model(view) for view in views]
    if config.alpha is None:
        weights = config.lambd, config.mu, config.nu
        return multiview_loss(outputs, *weights, global_views=2), None
    embeddings, maps = zip(*outputs, strict=True)
    positions = [
        place.cells(*of_view.shape[1:3])
        for place, of_view in zip(places, maps, strict=True)
    ]
    loss = VICRegLLoss(
        *(config.lambd, config.mu, config.nu),
        alpha=config.alpha,
        location_matches=config.location_matches,
    )
    arguments = embeddings, maps, positions
    return loss(*arguments), loss.terms(*arguments)


VICREGL, VICREG = {}, {"alpha": None}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [VICREGL, VICREG])
def test_a_step_is_the_loss_of_all_views(changes):
    found = programs("data=1", **changes)
    loss, terms = jax.jit(partial(in_plain_words, found))(found.start())
    _, metrics = stepped(**changes)
    np.testing.assert_allclose(metrics.loss, loss, rtol=1e-5)
    if terms is None:
        assert metrics[-3:] == (None, None, None)
        return
    np.testing.assert_allclose(metrics[1:4], terms.of_views, rtol=1e-4)
    np.testing.assert_allclose(metrics[-3:], terms.of_maps, rtol=1e-4)


@pytest.mark.slow
def test_a_step_follows_the_gradient_of_the_loss():
    found = programs("data=1")
    start = found.start()

    def loss(params):
        return in_plain_words(found, start._replace(params=params))[0]

    norm = optax.tree.norm(jax.jit(jax.grad(loss))(start.params))
    _, metrics = stepped()
    np.testing.assert_allclose(metrics.gradient_norm, norm, rtol=1e-4)


@pytest.mark.slow
def test_devices_change_rounding_only():
    (_, one), (_, many) = stepped(), stepped("data=4,more=2")
    chex.assert_trees_all_close(many, one, rtol=1e-4)


@pytest.mark.slow
def test_parts_of_a_batch_meet_in_the_loss():
    found = programs("data=1", accumulate=2)
    start = found.start()
    views, _ = QuarterViews(16).located(jax.random.key(0), IMAGES, ASPECT)
    passed = jax.jit(lambda views: tuple(map(found.network(start), views)))
    parts = [passed([view[part::2] for view in views]) for part in range(2)]
    key = jax.random.key(0)
    seen, _ = jax.jit(found._embeddings)(start.params, start.stats, views, key)
    for part in range(2):
        of_part = jax.tree.map(lambda z, part=part: z[part::2], seen)
        chex.assert_trees_all_close(of_part, parts[part], atol=1e-5)


def test_lines_of_metrics_show_the_local_terms():
    _, metrics = stepped()
    line = {k: float(v) for k, v in metrics._asdict().items()}
    shown = f" local inv {metrics.local_invariance:.3f} var "
    assert shown in records.summary(line)
    del line["local_invariance"]
    assert "local" not in records.summary(line)


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path):
    settings = {"mesh": "data=1", "probe_every": 0, "tensorboard": False}
    settings["data"] = np.concatenate([IMAGES, 255 - IMAGES])
    job = config(epochs=2)
    whole = pretrain(job, out=tmp_path / "whole", console=None, **settings)
    out = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        pretrain(job, out=out, console=Console(file=InterruptsRun()), **settings)
    resumed = pretrain(job, out=out, console=None, **settings)
    for name, values in whole.metrics.items():
        if name not in ("images_per_second", "waiting"):
            np.testing.assert_array_equal(resumed.metrics[name], values)
    assert len(whole.metrics["local_covariance"]) == 4
    params = [nnx.state(run.encoder.model) for run in (whole, resumed)]
    chex.assert_trees_all_equal(*map(nnx.to_pure_dict, params))
    assert Run.open(out).config.location_matches == (3, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized", "compiled_with_little_effort")
@pytest.mark.skipif(not aot.available(), reason="libtpu is not installed")
@pytest.mark.parametrize("mesh", [None, "data=4,more=2"])
def test_a_step_compiles_for_tpus(mesh):
    report = compile_only(config(), "v5e:2x4", mesh)
    assert report.flops > 0 and sum(report.moved.values()) > 0


def test_the_recipe_has_the_official_settings():
    job = recipes.vicregl()
    assert (job.alpha, job.lambd, job.mu, job.nu) == (0.75, 25.0, 12.5, 0.5)
    assert (job.expander, job.local_expander) == (8192, 512)
    assert job.location_matches == (20, 4)
    assert job.views == ImageViews.official(follow_flips=False)


def test_what_vicregl_cannot_take_is_refused():
    with pytest.raises(ValueError, match="--alpha must be from 0 to 1, got 1.5"):
        config(alpha=1.5)
    with pytest.raises(ValueError, match="--encoder must be .* got vit_small"):
        nnx.eval_shape(lambda: build(config(encoder="vit_small")))
    with pytest.raises(ValueError, match="`views` must be .*LocatedViews with --alpha"):
        build(config(views=MirroredViews(16)))
    outputs = [(jnp.ones((2, 3)), jnp.ones((2, 2, 2, 3)))] * 2
    _, places = QuarterViews(16).located(jax.random.key(0), IMAGES[:2], ASPECT[:2])
    with pytest.raises(UsageError, match="^--location-matches must be at most the 4"):
        vicregl_terms((5, 1), make_mesh("data=1"), outputs, places[:2])

    class NoMap(nnx.Module):
        def __init__(self, rngs):
            self.out_features = 3

    with pytest.raises(ValueError, match="must have the method `feature_map`"):
        build(config(encoder_class="m:NoMap"), lambda rngs: NoMap(rngs))

    def maps(images):
        own = config(encoder_class="m:Own")
        return build(own, lambda rngs: SmallResNet(rngs=rngs))(images)[1]

    assert jax.eval_shape(maps, jnp.zeros((2, 16, 16, 1))).shape == (2, 2, 2, 8)


def test_canvases_show_their_digits_where_they_say():
    train, test = canvas.canvases("canvas"), canvas.canvases("canvas-test")
    assert len(train.pixels) == 4000 and len(test.pixels) == 1000
    read = canvas.read_canvas("canvas")
    np.testing.assert_array_equal(read.labels, train.classes[:, 1])
    digits = {}
    for name, found in (("train", train), ("test", test)):
        cells = found.cells(canvas.SIDE)
        assert np.all(cells[found.pixels[..., 0] > 0] != canvas.BACKGROUND)
        at = np.arange(len(cells))
        for number in range(3):
            top, left = found.corners[:, number].T
            np.testing.assert_array_equal(
                cells[at, top + 7, left + 7], found.classes[:, number]
            )
        area = np.sum(cells != canvas.BACKGROUND, axis=(1, 2))
        assert np.all(area == 3 * canvas.DIGIT**2)
        (top, left), side = found.corners[0, 0], canvas.DIGIT
        digits[name] = found.pixels[0, top : top + side, left : left + side]
    assert np.any(digits["train"] != digits["test"])
