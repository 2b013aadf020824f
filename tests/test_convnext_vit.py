"""ConvNeXt and ViT: sizes, initialization, precision, drop path, and a run's step."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from flax import nnx
from grids import thinned
from runs import MIRRORED, tiny

from vicreg_jax.augment import ImageViews
from vicreg_jax.nn import ConvNeXt, Expander, VICRegL, ViT
from vicreg_jax.nn.timm_layers import TimmLayers, drop_rates
from vicreg_jax.pretrain import recipes
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.mesh import by_rows, make_mesh
from vicreg_jax.pretrain.network import build
from vicreg_jax.pretrain.step import Programs

pytestmark = pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")


def convnext(**options):
    return ConvNeXt((1, 1, 1, 1), width=4, **options, rngs=nnx.Rngs(0))


def vit(**options):
    sizes = dict(patch_size=4, width=8, depth=2, heads=2, channels=1)
    return ViT(8, **(sizes | options), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("make", [convnext, vit])
def test_parameters_are_float32_where_float64_is_switched_on(x64, make):
    params = nnx.state(nnx.eval_shape(make), nnx.Param)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def images(side, channels=3, batch=4):
    return jax.random.normal(jax.random.key(1), (batch, side, side, channels))


@jax.jit
def forward(graph, state, x):
    model = nnx.merge(graph, state)
    return model(x), model.feature_map(x)


@pytest.mark.parametrize(
    "encoder, features, parameters",
    # timm's, less those of the classifier and of layer scale.
    thinned(
        [
            ("convnext_tiny", 768, 28_589_128 - 769_000 - 6_624),
            ("convnext_small", 768, 50_223_688 - 769_000 - 13_536),
            ("convnext_base", 1024, 88_591_464 - 1_025_000 - 18_048),
            ("vit_small", 384, 22_050_664 - 385_000),
            ("vit_base", 768, 86_567_656 - 769_000),
        ],
        keep=[("convnext_tiny", 768, 28_589_128 - 769_000 - 6_624)],
    ),
)
def test_the_encoders_of_a_run_have_timms_sizes(encoder, features, parameters):
    config = dataclasses.replace(recipes.convnext(), encoder=encoder)
    model = nnx.eval_shape(lambda: build(config)).encoder
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in leaves) == parameters
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float32)}
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    seen, maps = nnx.eval_shape(lambda m, x: (m(x), m.feature_map(x)), model, x)
    assert (seen.shape, seen.dtype) == ((2, features), jnp.float32)
    side = 14 if encoder.startswith("vit") else 7
    assert (maps.shape, maps.dtype) == ((2, side, side, features), jnp.bfloat16)


@pytest.mark.parametrize("norm_pooled", [False, True])
def test_features_are_the_mean_of_the_map(norm_pooled):
    model = convnext(norm_pooled=norm_pooled)
    y, maps = map(np.asarray, forward(*nnx.split(model), images(64, batch=2)))
    assert maps.shape == (2, 2, 2, 32)
    mean = maps.mean((1, 2))
    if norm_pooled:
        mean -= mean.mean(1, keepdims=True)
        mean /= np.sqrt(mean.var(1, keepdims=True) + 1e-6)
    else:
        # What is averaged was normalized; new layer norms have scale 1 and bias 0.
        np.testing.assert_allclose(maps.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(y, mean, atol=1e-5)


def test_vicregl_needs_features_that_are_the_mean_of_the_map():
    def whole(encoder):
        sizes = encoder.out_features, 4
        expanders = (Expander(*sizes, rngs=nnx.Rngs(seed)) for seed in (0, 1))
        return VICRegL(encoder, *expanders)

    def refused(found):
        needed = "`encoder` must have features that are the mean of its map"
        return pytest.raises(ValueError, match=f"{needed}, got {found}")

    with refused("a ViT"):
        whole(vit())
    with refused("a ConvNeXt with `norm_pooled`"):
        whole(convnext(norm_pooled=True))
    model = convnext()
    assert whole(model).encoder is model


def test_the_map_of_a_vit_has_its_patches_in_place():
    model = vit()
    tokens = jax.jit(lambda: model.tokens(images(8, 1)))()
    y, maps = forward(*nnx.split(model), images(8, 1))
    np.testing.assert_allclose(y, tokens[:, 0], atol=1e-5)
    np.testing.assert_allclose(maps[:, 1, 0], tokens[:, 3], atol=1e-5)


@pytest.mark.parametrize("make, x", [(convnext, images(32)), (vit, images(8, 1))])
def test_bfloat16_computes_narrow_and_keeps_wide(make, x):
    graph, state = nnx.split(make(dtype=jnp.bfloat16))
    y, maps = jax.eval_shape(forward, graph, state, x)
    assert (y.dtype, maps.dtype) == (jnp.float32, jnp.bfloat16)
    lines = forward.lower(graph, state, x).as_text().splitlines()
    kinds = ("stablehlo.convolution", "stablehlo.dot_general")
    products = [line for line in lines if any(kind in line for kind in kinds)]
    operands = [line.rpartition(" : ")[2].partition(" -> ")[0] for line in products]
    assert operands and all(o.count("bf16") == 2 for o in operands)
    # Layer norms and the softmax are in float32.
    wide = [
        line for line in lines if "stablehlo.rsqrt" in line or "exponential" in line
    ]
    assert wide and not any("bf16" in line for line in wide)


@pytest.mark.parametrize("make, x", [(convnext, images(32)), (vit, images(8, 1))])
def test_bfloat16_is_close(make, x):
    narrow, exact = (
        np.asarray(forward(*nnx.split(make(dtype=dtype)), x)[0])
        for dtype in (jnp.bfloat16, None)
    )
    error = np.linalg.norm(narrow - exact) / np.linalg.norm(exact)
    # 8 bits; the roundings of at most 20 products and layer norms, all of one sign.
    assert 0 < error < 20 * 2**-8


def test_layers_start_as_timms():
    make = TimmLayers(nnx.Rngs(0))
    for layer in (make.linear(64, 256), make.patches(3, 256, 8), make.depthwise(96, 7)):
        kernel = np.asarray(layer.kernel[...])
        # The deviation of n normals is off by 1 / sqrt(2 n) of itself, times 4.
        rtol = 4 / np.sqrt(2 * kernel.size)
        np.testing.assert_allclose(kernel.std(), 0.02, rtol=rtol)
        np.testing.assert_array_equal(layer.bias[...], 0)
    gamma = convnext(layer_scale=1e-6).stages[0].blocks[0].gamma
    np.testing.assert_array_equal(gamma[...], np.float32(1e-6))


class TestDropPath:
    def test_rates_rise_to_the_last_block(self):
        np.testing.assert_allclose(drop_rates(0.3, 4), [0, 0.1, 0.2, 0.3])
        assert drop_rates(0.3, 1) == [0]
        model = convnext(drop_path=0.3)
        rates = [stage.blocks[0].drop_path.rate for stage in model.stages]
        np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3])
        blocks = vit(drop_path=0.5).blocks
        assert [b.drop_path1.rate for b in blocks] == [0, 0.5]
        assert [b.drop_path2.rate for b in blocks] == [0, 0.5]

    @pytest.mark.parametrize("dims", [3, 4])
    def test_whole_samples_are_dropped(self, dims):
        layer = TimmLayers(nnx.Rngs(0)).drop_path(0.25, dims)
        y = np.asarray(layer(jnp.ones((4096, *(2,) * (dims - 1)))))
        rows = y.reshape(len(y), -1)
        assert (rows == rows[:, :1]).all()
        np.testing.assert_allclose(np.unique(rows), [0, 4 / 3], rtol=1e-6)
        # The share of n draws is off by sqrt(p (1 - p) / n), times 5.
        assert abs((rows[:, 0] == 0).mean() - 0.25) < 5 * np.sqrt(0.1875 / len(y))

    @pytest.mark.parametrize("make, x", [(convnext, images(32)), (vit, images(8, 1))])
    def test_it_is_for_training_alone(self, make, x):
        plain, dropping = make(), make(drop_path=0.9)
        assert not jax.tree.leaves(nnx.state(plain, nnx.RngState))
        nnx.update(dropping, nnx.state(plain, nnx.Param))
        # Its two passes draw different samples.
        y, maps = forward(*nnx.split(dropping), x)
        wanted, whole = forward(*nnx.split(plain), x)
        assert jnp.abs(y - wanted).max() > 0.01 < jnp.abs(maps - whole).max()
        dropping.eval()
        seen = forward(*nnx.split(dropping), x)
        np.testing.assert_allclose(seen[0], wanted, atol=1e-5)

    def test_devices_draw_the_same(self):
        mesh, x = make_mesh("data=8"), images(8, 1, batch=8)
        graph, state = nnx.split(vit(drop_path=0.5))
        spread = forward(graph, state, jax.device_put(x, by_rows(mesh)))
        assert not spread[0].sharding.is_fully_replicated
        # What is dropped changes features by more than 0.01; see above.
        for one, other in zip(spread, forward(graph, state, x), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@dataclasses.dataclass(frozen=True)
class SameViews(type(MIRRORED)):
    """Both views are the image."""

    def pair(self, key, images, aspect):
        plain = self.plain(images, aspect)
        return plain, plain


class TestStep:
    """Drop path in a run: a function of seed and step, on any devices."""

    images = np.random.default_rng(0).integers(0, 255, (16, 8, 8, 1), np.uint8)

    @staticmethod
    @cache
    def programs(mesh, drop_path=0.5, **changes):
        def own(rngs):
            sizes = dict(patch_size=4, width=8, depth=2, heads=2, channels=1)
            return ViT(8, **sizes, drop_path=drop_path, rngs=rngs)

        config = tiny(views=SameViews(8), encoder_class="test:ViT", **changes)
        return Programs(config, make_mesh(mesh), 9, own_encoder=own)

    def batch(self, programs):
        return jax.device_put((self.images, np.ones(16)), by_rows(programs.mesh))

    def test_a_resumed_run_draws_the_same(self):
        programs = self.programs("data=1")
        states, state = [], programs.start()
        for _ in range(2):
            state, _ = programs.train(state, *self.batch(programs))
            states.append(jax.device_get(state))
        # From what a checkpoint keeps.
        kept = jax.device_put(states[0], state.step.sharding)
        resumed, _ = programs.train(kept, *self.batch(programs))
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), states[1])

    @pytest.mark.slow
    @pytest.mark.parametrize("mesh", ["data=8", "data=4,more=2"])
    def test_devices_change_rounding_only(self, mesh):
        def embedded(mesh, params=None):
            programs = self.programs(mesh)
            state = programs.start()
            if params is not None:
                params = jax.device_put(params, state.step.sharding)
                state = state._replace(params=params)
            return np.asarray(programs.embed(state, *self.batch(programs)))

        start = jax.device_get(self.programs("data=1").start())
        bounds = rounding.of_network(lambda p: embedded("data=1", p), start.params, 16)
        rounding.assert_close(embedded(mesh), embedded("data=1"), bounds)

    @pytest.mark.slow
    def test_steps_views_and_parts_draw_anew(self):
        """With one image throughout, embeddings differ by what is dropped."""
        programs = self.programs("data=1", accumulate=2)
        state, batch = programs.start(), self.batch(programs)
        batch = (np.broadcast_to(self.images[:1], self.images.shape), batch[1])
        drawn = [
            np.asarray(programs.embed(state._replace(step=jnp.int32(step)), *batch))
            for step in (0, 1)
        ]
        assert not np.array_equal(drawn[0], drawn[1])
        assert not np.array_equal(drawn[0][0], drawn[0][1])
        pair = programs.config.views.pair(None, *map(jnp.asarray, batch))
        key = jax.random.key(0)
        embeddings = jax.jit(programs._embeddings)
        (first, _), _ = embeddings(state.params, state.stats, pair, key)
        assert not np.array_equal(first[::2], first[1::2])

    @pytest.mark.slow
    def test_without_it_nothing_is_drawn(self):
        lowered = self.programs("data=1", drop_path=0.0)
        state = jax.eval_shape(lowered.start)
        text = lowered.train.lower(state, self.images, np.ones(16)).as_text()
        assert "threefry" not in text and "random" not in text


class TestErrors:
    @pytest.mark.parametrize(
        "make, message",
        [
            (
                lambda: convnext(drop_path=1.0),
                "`drop_path` must be at least 0 and below",
            ),
            (lambda: convnext(channels=0), "`channels` must be at least 1, got 0"),
            (lambda: ConvNeXt((3, 3), rngs=nnx.Rngs(0)), "`depths` must be 4 numbers"),
            (
                lambda: vit(patch_size=3),
                "`image_size` must be a multiple of `patch_size",
            ),
            (lambda: vit(heads=3), "`width` must be a multiple of `heads`, 3, got 8"),
            (lambda: vit(heads=0), "`heads` must be at least 1, got 0"),
            (lambda: vit(depth=0), "`depth` must be at least 1, got 0"),
            (lambda: convnext()(jnp.ones((1, 31, 40, 3))), "at least 32 pixels a side"),
            (lambda: convnext()(jnp.ones((1, 32, 32, 1))), r"shape .* 3\), got"),
            (
                lambda: vit()(jnp.ones((1, 12, 8, 1))),
                r"\(batch, 8, 8, 1\), got \(1, 12",
            ),
        ],
    )
    def test_sizes(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"drop_path": 1.0}, "--drop-path must be at least 0 and below 1, got 1.0"),
            (
                {"drop_path": 0.1, "encoder": "resnet18"},
                "--drop-path must be 0 with --encoder resnet18, got 0.1",
            ),
            (
                {"encoder": "vit_base", "views": ImageViews(size=40)},
                "--views.size must be a multiple of 16 with --encoder vit_base, got 40",
            ),
            ({"views": ImageViews(size=31)}, "--views.size must be at least 32 with"),
        ],
    )
    def test_settings(self, changes, message):
        with pytest.raises(UsageError, match=message):
            dataclasses.replace(recipes.convnext(), **changes)
