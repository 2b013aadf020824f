"""VICRegL's local loss: oracle, PyTorch, lightly, devices, ties and errors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grids import thinned
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

pytest.importorskip("torch")

from parity import local as section
from parity import modes
from parity.cases import Level
from parity.checks import NotRun
from parity.local_cases import LocalCase, catalog
from parity.local_faults import LOCAL_FAULTS
from parity.local_oracle import Settings, numpy_local_loss
from parity.ours import PACKAGE
from vicreg_jax import conventions, multiview_loss
from vicreg_jax.local import VICRegLLoss, local_loss, vicregl_loss

QUICK_MODES = [
    "jit, explicit mesh, features over model",
    "shard_map, two row axes",
    "pmap",
]
FEW = {"feature_matches": (3, 5), "location_matches": (4, 2)}


def draw(batch=6, channels=5, sides=((3, 4), (3, 3))):
    """Maps and positions in float64, free of ties."""
    return LocalCase(batch, sides, channels, Settings()).views()


def settings_of(options, global_views=2):
    features = options.get("feature_matches")
    locations = options.get("location_matches", (20, 4))
    order = options.get("slot_order", "raster")
    return Settings(features, locations, order, global_views)


def passed(checks):
    return all(check.passed for check in checks)


def assert_result(got, want):
    (value, gradients), scale = got, max(np.abs(g).max() for g in want.gradients)
    np.testing.assert_allclose(value, want.total, rtol=1e-12)
    for one, other in zip(gradients, want.gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * scale)


STANDARD, QUICK = (catalog(level) for level in (Level.FULL, Level.QUICK))


@pytest.mark.parametrize(
    "case", thinned(STANDARD, keep=QUICK[1:]), ids=lambda case: case.name
)
def test_equals_pytorch_and_the_oracle(case):
    try:
        assert passed(section.check_case("local/a", case, PACKAGE))
    except NotRun as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize(
    "batch, channels, options",
    thinned(
        [
            (4, 9, FEW | {"slot_order": "raster", "feature_matches": None}),
            (6, 5, FEW | {"slot_order": "raster"}),
            (6, 5, FEW | {"slot_order": "distance", "feature_matches": None}),
            (4, 9, FEW | {"slot_order": "distance"}),
        ],
        keep=[(4, 9, FEW | {"slot_order": "raster", "feature_matches": None})],
    ),
)
def test_more_than_two_views(x64, batch, channels, options):
    """Two global views and two local crops, whose maps are smaller."""
    maps, positions = draw(batch, channels, ((3, 4), (3, 3), (3, 2), (2, 3)))
    z = np.random.default_rng(0).standard_normal((4, batch, 7))
    loss = VICRegLLoss(25.0, 12.5, 0.5, alpha=0.25, **options)
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    value, (dz, dmaps) = step(jnp.asarray(z), list(map(jnp.asarray, maps)), positions)
    want = numpy_local_loss(maps, positions, settings_of(options))
    of_views = partial(multiview_loss, lambd=25.0, mu=12.5, nu=0.5, global_views=2)
    whole, gradient = jax.jit(jax.value_and_grad(of_views))(jnp.asarray(z))
    assert_result(((value - 0.25 * whole) / 0.75, [dm / 0.75 for dm in dmaps]), want)
    np.testing.assert_allclose(dz, 0.25 * gradient, rtol=1e-12)


def test_lightly_with_its_global_loss_and_local_crops(x64):
    pytest.importorskip("torch")
    from parity import local_torch, upstream

    maps, positions = draw(6, 5, ((5, 5), (5, 4), (3, 3)))
    z = np.random.default_rng(0).standard_normal((3, 6, 7))
    try:
        want = local_torch.lightly_loss(z, maps, positions, alpha=0.6)
    except upstream.NotLoaded as reason:
        pytest.skip(str(reason))
    loss = conventions.vicregl_lightly(alpha=0.6)
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    got, (dz, dmaps) = step(jnp.asarray(z), list(map(jnp.asarray, maps)), positions)
    np.testing.assert_allclose(got, want[0], rtol=1e-13)
    np.testing.assert_allclose(dz, np.stack(want[1]), atol=1e-14)
    for one, other in zip(dmaps, want[2], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-14)


@pytest.mark.parametrize("name", LOCAL_FAULTS)
def test_faults_are_caught(name):
    case = LocalCase(4, ((3, 3), (3, 3)), 6, Settings(None, (4, 2)), "float32")
    faulty = PACKAGE._replace(local=LOCAL_FAULTS[name])
    assert passed(section.check_case("local/a", case, PACKAGE))
    assert not passed(section.check_case("local/a", case, faulty))


@pytest.mark.parametrize("name", thinned(modes.MODES, keep=QUICK_MODES))
def test_every_mode(name):
    assert passed(section.check_mode("local/a", name, PACKAGE))


@pytest.mark.parametrize("check_vma", thinned([True, False], keep=[True]))
def test_images_that_do_not_count(x64, check_vma):
    """Padding on eight devices, one of them with nothing else, changes nothing."""
    maps, positions = draw(16)
    where = np.random.default_rng(0).random(16) < 0.7
    where[:2] = False
    padded = [np.where(where[:, None, None, None], x, np.nan) for x in maps]
    nowhere = [np.where(where[:, None, None, None], p, np.nan) for p in positions]

    def loss(maps, positions, where):
        return local_loss(*maps, *positions, where=where, axis_name="data", **FEW)

    mapped = jax.shard_map(
        loss,
        mesh=modes.mesh(),
        in_specs=P("data"),
        out_specs=P(),
        check_vma=check_vma,
    )
    value, got = jax.jit(jax.value_and_grad(mapped))(padded, nowhere, where)
    counted = ([a[where] for a in arrays] for arrays in (maps, positions))
    want = numpy_local_loss(*counted, settings_of(FEW))
    assert_result((value, [dm[where] for dm in got]), want)
    assert all(not np.any(dm[~where]) for dm in got)


class TestTies:
    """The first position in raster order, on any number of devices."""

    def result(self, maps, positions, devices, options):
        def loss(maps, positions, axis_name=None):
            return local_loss(*maps, *positions, axis_name=axis_name, **options)

        if devices > 1:
            loss = jax.shard_map(
                partial(loss, axis_name="data"),
                mesh=modes.mesh((devices,)),
                in_specs=P("data"),
                out_specs=P(),
            )
        arrays = [list(map(jnp.asarray, found)) for found in (maps, positions)]
        return jax.jit(jax.value_and_grad(loss))(*arrays)

    @pytest.mark.parametrize("devices", thinned([1, 2, 8], keep=[1, 8]))
    @pytest.mark.parametrize(
        "order", thinned(["raster", "distance"], keep=["distance"])
    )
    def test_integer_crops(self, x64, devices, order):
        """Crops of whole pixels, a cell a pixel: most distances are equal to others."""
        maps, _ = draw(8, 5, ((3, 4), (3, 3)))
        rng = np.random.default_rng(0)
        positions = []
        for x in maps:
            cells = np.stack(np.indices(x.shape[1:3]), axis=-1)
            corners = rng.integers(0, 2, (8, 1, 1, 2))
            positions.append((cells + corners).astype(np.float64))
        options = FEW | {"slot_order": order}
        want = numpy_local_loss(maps, positions, settings_of(options))
        assert_result(self.result(maps, positions, devices, options), want)

    @pytest.mark.parametrize("devices", thinned([1, 2, 8], keep=[8]))
    def test_equal_features(self, x64, devices):
        """A constant background: many cells have the same features."""
        maps, positions = draw(8, 5, ((3, 4), (3, 3)))
        for x in maps:
            x[:, :2] = x[:, :1, :1]
        maps[1][:, 0] = maps[0][:, 0, :3]
        want = numpy_local_loss(maps, positions, settings_of(FEW))
        assert_result(self.result(maps, positions, devices, FEW), want)


def test_gradients_are_those_of_the_value(x64):
    """Where no choice changes, finite differences agree, in both modes of autodiff."""
    maps, positions = draw(3, 2, ((2, 3), (2, 2)))

    def loss(*maps):
        return local_loss(*maps, *positions, **FEW | {"feature_matches": (3, 4)})

    tangents = tuple(map(jnp.asarray, maps))
    check_grads(jax.jit(loss), tangents, order=1, rtol=1e-6, eps=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_computes_in_float32(dtype):
    """Values whose squares float16 cannot hold."""
    maps, positions = draw()
    narrow = [jnp.asarray(60 * x, dtype) for x in maps]
    loss = partial(local_loss, location_matches=(4, 2))
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    value, got = step(*narrow, *map(jnp.float32, positions))
    wide = [np.asarray(x).astype(np.float64) for x in narrow]
    want = numpy_local_loss(wide, positions, settings_of({"location_matches": (4, 2)}))
    assert value.dtype == jnp.float32
    assert [dm.dtype for dm in got] == [x.dtype for x in narrow]
    np.testing.assert_allclose(value, want.total, rtol=1e-5)


def test_one_computation_of_moments_a_view():
    """Of the whole map once, of what it was matched with, and of the locations."""
    maps, positions = (list(map(np.float32, arrays)) for arrays in draw())
    loss = partial(local_loss, location_matches=(4, 2))
    jaxpr = str(jax.make_jaxpr(loss)(*maps, *positions))
    assert jaxpr.count("name=moments") == 2
    slots = 3 * 4 + 3 * 3 + 2 * (4 + 2)
    assert f"f32[{slots},6,5]" in jaxpr
    assert f"f32[{slots + 1},6,5]" not in jaxpr


def test_transforms_and_traced_weights(x64):
    maps, positions = map(np.stack, draw(6, 4, ((3, 3), (3, 3))))
    z = np.random.default_rng(0).standard_normal((2, 6, 4))
    want = numpy_local_loss(maps, positions, settings_of(FEW), (3.0, 5.0, 7.0))
    weights = map(jnp.asarray, (3.0, 5.0, 7.0, 1.0, 0.0))
    loss = VICRegLLoss(*weights, **FEW)

    @jax.jit
    def both(loss, z, maps, positions):
        def value(loss, maps):
            return loss(z, maps, positions)

        batched = jax.vmap(value, in_axes=(None, 0))(loss, jnp.stack([maps] * 2))
        return (
            batched,
            jax.value_and_grad(value)(loss, maps),
            loss.terms(z, maps, positions),
        )

    batched, (value, gradient), terms = both(loss, z, maps, positions)
    np.testing.assert_allclose(batched, [want.total] * 2)
    np.testing.assert_allclose(value, want.total)
    np.testing.assert_allclose(terms.of_maps, want[:3], rtol=1e-12)
    np.testing.assert_allclose(gradient.lambd, want.invariance)
    whole = terms.of_views.weighted_sum(3.0, 5.0, 7.0)
    np.testing.assert_allclose(gradient.alpha, whole - want.total)


def test_two_views_are_the_local_loss():
    maps, positions = ([jnp.float32(a) for a in arrays] for arrays in draw())
    z = jnp.ones((2, 6, 3))
    found = vicregl_loss(z, maps, positions, 0.0, **FEW)
    assert found == local_loss(*maps, *positions, **FEW)


def test_conventions():
    assert conventions.vicregl_official() == VICRegLLoss()
    assert conventions.vicregl_official(
        0.9, 3.0, 5.0, 7.0, (3, 2), l2_all_matches=False
    ) == VICRegLLoss(
        3.0, 2.5, 3.5, alpha=0.9, feature_matches=(3, 2), location_matches=(3, 2)
    )
    assert conventions.vicregl_lightly(eps=0.1, axis_name="data") == VICRegLLoss(
        feature_matches=(20, 4),
        slot_order="distance",
        clamp_matches=True,
        eps=0.1,
        axis_name="data",
    )


GOOD = np.ones((4, 3, 3, 2), np.float32)


def changed(**options):
    """Arguments of `local_loss`, some of them wrong."""
    arguments = {name: GOOD for name in ("maps1", "maps2", "positions1", "positions2")}
    return arguments | {"location_matches": (4, 2)} | options


@pytest.mark.usefixtures("unchecked_signatures")
@pytest.mark.parametrize(
    "options, error, match",
    [
        ({"maps1": GOOD[0]}, ValueError, r"`maps1` must have rank 4.*\(3, 3, 2\)"),
        ({"maps1": GOOD[:1]}, ValueError, "`maps1` must have at least 2 rows"),
        ({"maps1": GOOD[:, :0]}, ValueError, "`maps1` must have at least 1 position"),
        ({"maps2": GOOD.astype(int)}, TypeError, "`maps2` must have a dtype of"),
        (
            {"maps2": np.ones((4, 3, 3, 5))},
            ValueError,
            r"`maps2` must have the batch and the channels of `maps1`, 4 and 2, got",
        ),
        (
            {"maps2": GOOD[:3]},
            ValueError,
            "`maps2` must have the batch and the channels",
        ),
        (
            {"positions2": GOOD[:, :2]},
            ValueError,
            r"`positions2` must have shape \(batch, height, width, 2\), \(4, 3, 3, 2\)",
        ),
        ({"positions1": GOOD > 0}, TypeError, "`positions1` must have a dtype of"),
        (
            {"location_matches": (20, 4)},
            ValueError,
            "`location_matches` must be at most the 9 positions of `maps1`, got 20",
        ),
        (
            {"feature_matches": (4, 10)},
            ValueError,
            "`feature_matches` must be at most the 9 positions of `maps1`, got 10",
        ),
        (
            {"feature_matches": (4,)},
            ValueError,
            "`feature_matches` must be None or two",
        ),
        ({"feature_matches": (4, 0)}, ValueError, "`feature_matches` must be whole"),
        ({"location_matches": (4, True)}, ValueError, "`location_matches` must be who"),
        ({"slot_order": "random"}, ValueError, "`slot_order` must be one of.*'random'"),
        ({"gamma": -1.0}, ValueError, "`gamma` must be at least 0, got -1"),
        ({"lambd": jnp.ones(2)}, ValueError, "`lambd` must be a scalar"),
        ({"axis_name": "data"}, ValueError, "`axis_name` must name axes"),
        ({"where": np.ones(3, bool)}, ValueError, r"`where` must have one entry for"),
    ],
)
def test_errors_name_the_argument(options, error, match):
    with pytest.raises(error, match=match):
        local_loss(**changed(**options))


@pytest.mark.usefixtures("unchecked_signatures")
@pytest.mark.parametrize(
    "z, maps, positions, options, match",
    [
        (
            3,
            2,
            2,
            {},
            "`maps` must hold as many views as `global_embeddings`, 3, got 2",
        ),
        (2, 2, 3, {}, "`positions` must hold as many views"),
        (2, 2, 2, {"global_views": 3}, "`global_views` must be None or from 1"),
        (2, 2, 2, {"alpha": jnp.ones(2)}, "`alpha` must be a scalar"),
        (2, 2, 2, {"location_matches": (4, 10)}, r"9 positions of `maps\[0\]`, got 10"),
    ],
)
def test_errors_of_the_whole(z, maps, positions, options, match):
    arguments = np.ones((z, 4, 3)), np.stack([GOOD] * maps), [GOOD] * positions
    with pytest.raises(ValueError, match=match):
        vicregl_loss(*arguments, **{"location_matches": (4, 2)} | options)
    with pytest.raises(ValueError, match=r"`maps\[0\]` must have the batch of `glob"):
        vicregl_loss(np.ones((2, 5, 3)), [GOOD] * 2, [GOOD] * 2)
