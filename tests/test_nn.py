"""The networks: sizes, initialization, precision, and batch norm across devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from flax import nnx
from flax.errors import TraceContextError
from grids import thinned
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vicreg_jax.nn import Expander, ResNet, SmallResNet, VICReg
from vicreg_jax.nn.keys import keys
from vicreg_jax.nn.layers import Layers
from vicreg_jax.nn.resnet import BasicBlock, Bottleneck

TINY = dict(depth=18, width=4, small_images=True)


def tiny(**changed):
    return ResNet(**(TINY | changed), rngs=nnx.Rngs(0))


def images(batch=16, side=8, channels=3):
    return jax.random.normal(jax.random.key(1), (batch, side, side, channels))


@jax.jit
def trained(graph, state, x):
    """Returns the output in train mode and the statistics after it."""
    model = nnx.merge(graph, state)
    return model(x), nnx.state(model, nnx.BatchStat)


def applied(model, x):
    return trained(*nnx.split(model), x)


@pytest.mark.parametrize(
    "depth, features, parameters",
    # torchvision's, less those of the classifier.
    [
        (18, 512, 11_689_512 - 513_000),
        (34, 512, 21_797_672 - 513_000),
        (50, 2048, 25_557_032 - 2_049_000),
        pytest.param(101, 2048, 44_549_160 - 2_049_000, marks=pytest.mark.slow),
    ],
)
def test_resnet_has_the_size_of_torchvisions(depth, features, parameters):
    model = nnx.eval_shape(lambda: ResNet(depth, rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in leaves) == parameters
    assert model.out_features == features
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    seen = nnx.eval_shape(lambda model, x: model(x), model, x)
    assert (seen.shape, seen.dtype) == ((2, features), jnp.float32)


@pytest.mark.parametrize("network", ["resnet", "small"])
def test_features_are_the_mean_of_the_map(network):
    model, x = built(network, None)
    if network == "resnet":
        model = tiny()
    model.eval()
    maps = model.feature_map(x)
    assert maps.shape == ((16, 2, 2, 32) if network == "resnet" else (16, 2, 2, 8))
    np.testing.assert_array_equal(model(x), maps.mean((1, 2)))


@pytest.mark.parametrize(
    "small_images, stem, last",
    thinned([(False, 112, 7), (True, 226, 29)], keep=[(False, 112, 7)]),
)
def test_resolutions(small_images, stem, last):
    sides = {}

    def forward():
        model = ResNet(50, width=4, small_images=small_images, rngs=nnx.Rngs(0))
        model.conv1.conv_general_dilated = _noting(sides, "stem")
        final = model.layer4[2].conv3
        final.conv_general_dilated = _noting(sides, "last")
        return model(jnp.zeros((1, 224, 224, 3)))

    jax.eval_shape(forward)
    assert sides == {"stem": (stem, stem), "last": (last, last)}


def _noting(sides, name):
    def conv(*args, **options):
        y = jax.lax.conv_general_dilated(*args, **options)
        sides[name] = y.shape[1:3]
        return y

    return conv


def test_a_bottleneck_strides_on_its_3x3():
    block = nnx.eval_shape(lambda: ResNet(50, rngs=nnx.Rngs(0))).layer2[0]
    strides = [getattr(block, f"conv{i}").strides for i in (1, 2, 3)]
    assert strides == [1, 2, 1]
    assert block.downsample[0].strides == 2


def test_he_initialization_by_fan_out():
    kernel = Layers(nnx.Rngs(0)).conv(64, 128, 3).kernel[...]
    deviation = np.sqrt(2 / (128 * 3 * 3))
    # The standard deviation of n normals is off by 1 / sqrt(2 n) of itself, times 4.
    np.testing.assert_allclose(
        kernel.std(), deviation, rtol=4 / np.sqrt(2 * kernel.size)
    )
    # Not truncated: the largest of 73,728 normals lies beyond 4 deviations.
    assert jnp.abs(kernel).max() > 4 * deviation


def test_linear_layers_start_as_pytorchs():
    layer = Layers(nnx.Rngs(0)).linear(64, 512)
    # nn.Linear draws from U(-1 / sqrt(inputs), 1 / sqrt(inputs)).
    kernel = np.asarray(layer.kernel[...]) * 8
    assert 0.999 < np.abs(kernel).max() <= 1
    # The fourth moment of a uniform variable is 1.8 of its squared variance: the
    # standard deviation of n is off by sqrt(0.8 / (4 n)) of itself, times 4.
    error = 4 * np.sqrt(0.8 / (4 * kernel.size))
    np.testing.assert_allclose(kernel.std(), 1 / np.sqrt(3), rtol=error)
    np.testing.assert_array_equal(layer.bias[...], 0)


def test_keys_are_those_of_flax():
    ours, theirs = nnx.Rngs(5), nnx.Rngs(5)
    drawn = [keys(ours).params(), keys(ours).params(), ours.params()]
    assert drawn == [theirs.params() for _ in range(3)]
    with pytest.raises(TraceContextError):
        jax.eval_shape(lambda: nnx.state(Layers(ours).linear(2, 3)))


def test_no_traced_array_is_asked_for_its_sharding(monkeypatch):
    """It has none, and the error that says so takes longer than all of the tracing."""

    def asked(self):
        raise AssertionError(self)

    monkeypatch.setattr(jax.core.Tracer, "sharding", property(asked))
    _, stats = jax.eval_shape(trained, *nnx.split(nnx.eval_shape(tiny)), images())
    assert {leaf.shape for leaf in jax.tree.leaves(stats)} == {(4,), (8,), (16,), (32,)}


@pytest.mark.parametrize("kind, last", [(BasicBlock, "bn2"), (Bottleneck, "bn3")])
def test_residual_branches_start_at_zero_unless_told_otherwise(kind, last):
    width = 16 // kind.expansion
    for zero in (True, False):
        block = kind(Layers(nnx.Rngs(0), zero_residual=zero), 16, width, 1)
        np.testing.assert_array_equal(getattr(block, last).scale[...], float(not zero))
        np.testing.assert_array_equal(block.bn1.scale[...], 1)
        x = jax.nn.relu(images(channels=16))
        assert jnp.array_equal(block(x), x) == zero


def built(network, dtype):
    rngs = nnx.Rngs(0)
    if network == "resnet":
        return nnx.eval_shape(lambda: tiny(dtype=dtype)), images()
    if network == "small":
        return SmallResNet([4, 8], channels=3, dtype=dtype, rngs=rngs), images()
    return Expander(8, 16, dtype=dtype, rngs=rngs), images(32, 1, 8)[:, 0, 0]


@pytest.mark.usefixtures("relaxed_promotion")
@pytest.mark.parametrize("network", ["resnet", "small", "expander"])
def test_bfloat16_computes_narrow_and_keeps_wide(network):
    model, x = built(network, jnp.bfloat16)
    kept = jax.tree.leaves(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    assert {leaf.dtype for leaf in kept} == {jnp.dtype(jnp.float32)}
    y, statistics = jax.eval_shape(trained, *nnx.split(model), x)
    assert y.dtype == (jnp.bfloat16 if network == "expander" else jnp.float32)
    assert {s.dtype for s in jax.tree.leaves(statistics)} == {jnp.dtype(jnp.float32)}
    products = [
        line
        for line in trained.lower(*nnx.split(model), x).as_text().splitlines()
        if "stablehlo.convolution" in line or "stablehlo.dot_general" in line
    ]
    assert products and not any("f32" in line for line in products)


@pytest.mark.usefixtures("relaxed_promotion")
@pytest.mark.parametrize("network", ["small", "expander"])
def test_bfloat16_is_close(network):
    narrow, exact = (
        applied(*built(network, dtype))[0].astype(jnp.float32)
        for dtype in (jnp.bfloat16, None)
    )
    # 8 bits; the roundings of at most 5 products and 4 batch norms, all of one sign.
    error = jnp.linalg.norm(narrow - exact) / jnp.linalg.norm(exact)
    assert 0 < error < 9 * 2**-8


class TestBatchNorm:
    def norm(self, **options):
        return Layers(nnx.Rngs(0), **options).norm(3)

    def test_variance_does_not_cancel(self):
        x = 1e4 + jax.random.normal(jax.random.key(0), (4096, 3))
        exact = np.asarray(x, np.float64)
        norm = self.norm()
        y = norm(x)
        expected = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
        # The float32 mean of numbers near 1e4 is off by one unit of theirs, 2^-10.
        np.testing.assert_allclose(y, expected, atol=2**-9)
        # A sum of 4096 squares, each off by two roundings of x - mean, and the square
        # of the mean's error; a tenth of it is added to 0.9.
        doubt = rounding.of_sum(4096) + 4 * rounding.UNIT + 2.0**-20
        doubt = 0.1 * doubt * exact.var(0).max() + 4 * rounding.UNIT
        np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * exact.var(0), atol=doubt)

    @pytest.mark.usefixtures("relaxed_promotion")
    def test_running_statistics_are_used_in_float32(self):
        norm = self.norm(dtype=jnp.bfloat16)
        # Halfway between two bfloat16 numbers.
        norm.mean[...] = jnp.full(3, 1 + 2**-8)
        norm.eval()
        y = norm(jnp.ones((1, 3), jnp.bfloat16))
        assert y.dtype == jnp.bfloat16
        # The batch norm's epsilon of 1e-5 and one rounding to 8 bits.
        np.testing.assert_allclose(
            y.astype(jnp.float32), -(2**-8), rtol=1e-5 / 2 + 2**-9
        )

    def test_momentum_is_pytorchs(self):
        norm = self.norm()
        norm(jnp.asarray([[0.0] * 3, [2.0] * 3]))
        # 1 - 0.9, of which both are rounded at the size of 1, and two products.
        rounded = 4 * rounding.UNIT
        np.testing.assert_allclose(norm.mean[...], 0.1, rtol=0, atol=rounded)
        # Biased: the variance of 0 and 2 is 1 here, and 2 in PyTorch.
        np.testing.assert_allclose(norm.var[...], 1.0, rtol=0, atol=rounded)


class TestDevices:
    """Batch statistics are of the global batch, however it is spread."""

    def model(self, axis_name=None):
        rngs = nnx.Rngs(0)
        encoder = tiny(axis_name=axis_name)
        expander = Expander(encoder.out_features, 16, axis_name=axis_name, rngs=rngs)
        return VICReg(encoder, expander)

    def agree(self, results):
        graph, state = nnx.split(self.model())

        def leaves(state):
            return jax.tree.leaves(trained(graph, state, images()))

        bounds = rounding.of_network(leaves, state, rows=16 * 8 * 8)
        rounding.assert_close(jax.tree.leaves(results), leaves(state), bounds)

    @pytest.mark.parametrize("check_vma", [True, False])
    @pytest.mark.parametrize(
        "axes",
        thinned([{"data": 4}, {"rows": 2, "columns": 2}], keep=[{"data": 4}]),
    )
    def test_shard_map(self, axes, check_vma):
        names = tuple(axes)
        mesh = jax.make_mesh(
            tuple(axes.values()), names, axis_types=(AxisType.Auto,) * len(names)
        )
        axis_name = names if len(names) > 1 else names[0]
        graph, state = nnx.split(self.model(axis_name))
        mapped = jax.shard_map(
            lambda state, x: trained(graph, state, x),
            mesh=mesh,
            in_specs=(P(), P(names)),
            out_specs=(P(names), P()),
            check_vma=check_vma,
        )
        self.agree(jax.jit(mapped)(state, images()))

    def test_jit_over_a_mesh_needs_no_name(self):
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        x = jax.device_put(images(), NamedSharding(mesh, P("data")))
        y, statistics = applied(self.model(), x)
        assert not y.sharding.is_fully_replicated
        self.agree((y, statistics))

    def test_without_a_name_each_device_has_its_own(self):
        mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
        graph, state = nnx.split(self.model())
        mapped = jax.shard_map(
            lambda state, x: trained(graph, state, x)[0],
            mesh=mesh,
            in_specs=(P(), P("data")),
            out_specs=P("data"),
        )
        expected, _ = applied(self.model(), images())
        assert jnp.abs(jax.jit(mapped)(state, images()) - expected).max() > 0.01


class TestErrors:
    @pytest.mark.parametrize(
        "options, message",
        [
            ({"depth": 19}, r"`depth` must be one of \[18, 34, .*\], got 19"),
            ({"width": 0}, "`width` must be at least 1, got 0"),
            ({"channels": 0}, "`channels` must be at least 1, got 0"),
        ],
    )
    def test_sizes(self, options, message):
        with pytest.raises(ValueError, match=message):
            tiny(**options)

    def test_blocks(self):
        with pytest.raises(ValueError, match="`blocks` must be at least 1, got 0"):
            SmallResNet(blocks=0, rngs=nnx.Rngs(0))

    @pytest.mark.parametrize("network", ["resnet", "small"])
    @pytest.mark.parametrize("shape", [(8, 8, 3), (2, 3, 8, 8)])
    def test_images(self, network, shape):
        model, _ = built(network, None)
        with pytest.raises(
            ValueError, match=r"`images` must have shape .* 3\), got .*8"
        ):
            model(jnp.zeros(shape))
