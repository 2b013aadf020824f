"""Views of real photographs: each operation against PIL, scikit-image and dm-pix."""

import functools
import itertools
import math

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageFilter
import PIL.ImageOps
import pytest
import skimage
from grids import thinned
from jax.sharding import NamedSharding, PartitionSpec
from skimage.filters import gaussian
from sklearn.datasets import load_sample_images

from vicreg_jax.augment import ImageViews, _color, _space

# PIL rounds what it returns to 8 bits: half a step, and float32's own rounding.
ROUNDED = 0.5 / 255 + 1e-5
OFF = dict(
    flip=0.0,
    jitter=0.0,
    gray=0.0,
    blur=(0.0, 0.0),
    solarize=(0.0, 0.0),
    mean=(0.0,) * 3,
) | dict(std=(1.0,) * 3)
WHOLE = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0))


@pytest.fixture(scope="module")
def photographs():
    """Parts of four, neither square nor alike in shape, small to be quick."""
    china, flower = load_sample_images().images
    return (
        china[60:210, 200:400],
        flower[150:300, 100:280],
        skimage.data.astronaut()[:200, 150:300],
        skimage.data.coffee()[60:260, 150:350],
    )


@pytest.fixture(params=thinned(range(4), keep=[0]))
def photograph(request, photographs):
    return photographs[request.param]


blur = jax.jit(_space.blur, static_argnames="radius")
crop = jax.jit(_space.crop, static_argnums=2)
hue = jax.jit(_color.hue)
jitter = jax.jit(_color.jitter)


def floats(pixels):
    return np.asarray(pixels, np.float32) / np.float32(255)


def number(value):
    return np.float32(value)


def squares(photographs, side=64):
    """Returns the photographs as one batch of uint8 squares."""
    images = [PIL.Image.fromarray(p).resize((side, side)) for p in photographs]
    return np.stack([np.asarray(image) for image in images])


def changed_alone(photograph, operation, factor):
    """Returns the photograph with one of the first three operations applied."""
    factors = np.ones(3, np.float32)
    factors[operation] = factor
    return jitter(floats(photograph), factors, number(0), np.arange(4))


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
class TestColor:
    # PIL truncates, and its contrast rounds the mean as well: a step each.
    truncated = 2 / 255

    def test_brightness(self, photograph, factor):
        image = PIL.Image.fromarray(photograph)
        expected = floats(PIL.ImageEnhance.Brightness(image).enhance(factor))
        seen = changed_alone(photograph, _color.BRIGHTNESS, factor)
        np.testing.assert_allclose(seen, expected, atol=self.truncated)

    def test_contrast(self, photograph, factor):
        image = PIL.Image.fromarray(photograph)
        expected = floats(PIL.ImageEnhance.Contrast(image).enhance(factor))
        seen = changed_alone(photograph, _color.CONTRAST, factor)
        np.testing.assert_allclose(seen, expected, atol=self.truncated)

    def test_saturation(self, photograph, factor):
        image = PIL.Image.fromarray(photograph)
        expected = floats(PIL.ImageEnhance.Color(image).enhance(factor))
        seen = changed_alone(photograph, _color.SATURATION, factor)
        np.testing.assert_allclose(seen, expected, atol=self.truncated)


def test_gray(photograph):
    expected = floats(PIL.Image.fromarray(photograph).convert("L"))
    seen = _color.gray(floats(photograph))[..., 0]
    np.testing.assert_allclose(seen, expected, atol=ROUNDED)


def test_solarize_is_exact(photograph):
    expected = PIL.ImageOps.solarize(PIL.Image.fromarray(photograph), threshold=128)
    seen = _color.solarize(floats(photograph)) * 255
    np.testing.assert_array_equal(jnp.rint(seen), np.asarray(expected))
    np.testing.assert_allclose(
        seen / 255, dm_pix.solarize(floats(photograph), 0.5), atol=1e-6
    )


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 0.03, 0.1, 0.5])
@pytest.mark.usefixtures("relaxed_promotion")
def test_hue(photograph, turns):
    image = floats(photograph)
    seen = hue(image, number(turns))
    hsv = skimage.color.rgb2hsv(np.asarray(image, np.float64))
    hsv[..., 0] = (hsv[..., 0] + turns) % 1
    np.testing.assert_allclose(seen, skimage.color.hsv2rgb(hsv), atol=1e-5)
    np.testing.assert_allclose(seen, dm_pix.adjust_hue(image, turns), atol=1e-5)


def blended(image, partner, factor):
    return np.clip(factor * image + (1 - factor) * partner, 0, 1)


def luma(image):
    return image @ np.array([[0.299], [0.587], [0.114]])


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_jitter_follows_the_order(photographs, order):
    operations = (
        lambda x: blended(x, 0, 1.3),
        lambda x: blended(x, luma(x).mean(), 0.6),
        lambda x: blended(x, luma(x), 1.2),
        lambda x: np.asarray(hue(np.float32(x), number(0.08)), np.float64),
    )
    expected = np.asarray(floats(photographs[0]), np.float64)
    for operation in order:
        expected = operations[operation](expected)
    factors = np.array([1.3, 0.6, 1.2], np.float32)
    seen = jitter(floats(photographs[0]), factors, number(0.08), np.array(order))
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_color_leaves_gray_images_gray(photographs):
    image = floats(photographs[0])[..., :1]
    order = np.array([3, 2, 1, 0])
    factors = np.array([1.0, 1.0, 0.5], np.float32)
    changed = jitter(image, factors, number(0.3), order)
    np.testing.assert_allclose(changed, image, atol=1e-6)


def test_flip(photograph):
    expected = PIL.ImageOps.mirror(PIL.Image.fromarray(photograph))
    np.testing.assert_array_equal(_space.flip(photograph), np.asarray(expected))


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
class TestBlur:
    def test_is_a_gaussian(self, photograph, sigma):
        image = floats(photograph)
        seen = blur(image, number(sigma), radius=8)
        expected = gaussian(
            np.asarray(image, np.float64),
            sigma,
            mode="nearest",
            truncate=8 / sigma,
            channel_axis=-1,
        )
        np.testing.assert_allclose(seen, expected, atol=2e-5)

    def test_is_near_the_boxes_of_pil(self, photograph, sigma):
        image = PIL.Image.fromarray(photograph)
        expected = floats(image.filter(PIL.ImageFilter.GaussianBlur(sigma)))
        error = np.abs(blur(floats(photograph), number(sigma), radius=8) - expected)
        # PIL draws a Gaussian as three boxes, which is close and not equal.
        assert error.mean() < 2 / 255
        assert np.quantile(error, 0.99) < 8 / 255


class TestCrop:
    def box(self, top, left, height, width):
        return _space.Box(*(number(x) for x in (top, left, height, width)))

    @pytest.mark.parametrize("size", thinned([32, 224, 500], keep=[32, 224]))
    @pytest.mark.parametrize(
        "shares", [(0.0, 0.0, 1.0, 1.0), (0.13, 0.4, 0.31, 0.22), (0.5, 0.6, 0.5, 0.4)]
    )
    def test_is_the_bicubic_of_pil(self, photograph, shares, size):
        height, width = photograph.shape[:2]
        top, left, tall, wide = shares
        right, bottom = left + wide, top + tall
        box = (left * width, top * height, right * width, bottom * height)
        seen = crop(floats(photograph), self.box(*shares), size)
        np.testing.assert_allclose(seen, pil_crop(photograph, box, size), atol=1e-4)

    def test_a_squeezed_photograph_is_cropped_as_it_was(self, photographs):
        china = photographs[0]
        height, width = china.shape[:2]
        squeezed = PIL.Image.fromarray(china).resize((512, 512), PIL.Image.BICUBIC)
        box = self.box(0.2, 0.3, 0.5, 0.5 * height / width)
        kept, direct = (crop(floats(pixels), box, 64) for pixels in (squeezed, china))
        assert difference(kept, direct) < 2 / 255

    @pytest.mark.parametrize("aspect", [0.2, 0.75, 1.0, 4 / 3, 5.0])
    def test_boxes_are_those_of_torchvision(self, aspect):
        draws, scale, ratio = 4000, (0.08, 1.0), (3 / 4, 4 / 3)
        keys = jax.random.split(jax.random.key(0), draws)
        boxes = jax.device_get(draw_boxes(keys, number(aspect), scale, ratio))
        assert all(np.all((0 <= side) & (side <= 1)) for side in boxes)
        assert np.all(boxes.top + boxes.height <= 1 + 1e-6)
        assert np.all(boxes.left + boxes.width <= 1 + 1e-6)
        rng = np.random.default_rng(0)
        expected = np.array(
            [torchvision_box(rng, aspect, scale, ratio) for _ in range(draws)]
        )
        for seen, wanted in zip(boxes, expected.T, strict=True):
            # Kolmogorov and Smirnov: exceeded by chance once in ten million.
            assert distance(seen, wanted) < 2.9 * math.sqrt(2 / draws)

    def test_middle(self, photographs):
        china = photographs[0]
        height, width = china.shape[:2]
        views = ImageViews(size=224, center=0.875, mean=(0.0,) * 3, std=(1.0,) * 3)
        side = 0.875 * height
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        (seen,) = jax.jit(views.plain)(china[None])
        np.testing.assert_allclose(seen, pil_crop(china, box, 224), atol=1e-4)


@functools.partial(jax.jit, static_argnums=(2, 3))
def draw_boxes(keys, aspect, scale, ratio):
    def draw(key):
        return _space.random_box(key, aspect, scale=scale, ratio=ratio)

    return jax.vmap(draw)(keys)


def pil_crop(pixels, box, size):
    """What PIL makes of one box, without the rounding that it does to bytes."""
    channels = [
        PIL.Image.fromarray(channel).resize((size, size), PIL.Image.BICUBIC, box=box)
        for channel in np.moveaxis(np.asarray(pixels, np.float32) / 255, -1, 0)
    ]
    return np.clip(np.stack([np.asarray(c) for c in channels], -1), 0, 1)


def torchvision_box(rng, aspect, scale, ratio):
    """RandomResizedCrop.get_params, on an image of height 1 and without rounding."""
    for _ in range(10):
        area = aspect * rng.uniform(*scale)
        shape = np.exp(rng.uniform(*np.log(ratio)))
        width, height = np.sqrt(area * shape), np.sqrt(area / shape)
        if width <= aspect and height <= 1:
            top, left = rng.uniform(0, 1 - height), rng.uniform(0, aspect - width)
            return top, left / aspect, height, width / aspect
    if aspect < ratio[0]:
        width, height = aspect, aspect / ratio[0]
    elif aspect > ratio[1]:
        width, height = ratio[1], 1
    else:
        width, height = aspect, 1
    return (1 - height) / 2, (aspect - width) / 2 / aspect, height, width / aspect


def distance(a, b):
    """The Kolmogorov-Smirnov distance of two samples.

    Values within a rounding are one value: the fallback is the same box every time.
    """
    a, b = (np.round(np.asarray(x, np.float64), 5) for x in (a, b))
    at = np.union1d(a, b)
    below = [np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (a, b)]
    return np.abs(below[0] - below[1]).max()


def difference(a, b):
    return np.abs(np.subtract(a, b)).mean()


# One program for the tests that ask no more of it than to draw.
draw_pair = jax.jit(ImageViews(size=32).pair)


class TestViews:
    def test_without_distortion_only_the_normalization_is_left(self, photographs):
        images = squares(photographs)
        still = ImageViews(
            size=64,
            **WHOLE,
            **(OFF | dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))),
        )
        mean, std = np.array(still.mean), np.array(still.std)
        seen = still(jax.random.key(0), images)
        expected = (np.asarray(images) / 255 - mean) / std
        np.testing.assert_allclose(seen, expected, atol=1e-5)
        assert seen.dtype == jnp.float32
        same = still(jax.random.key(0), floats(images))
        np.testing.assert_array_equal(same, seen)

    def test_are_a_pure_function_of_key_and_image(self, photographs):
        images = squares(photographs)
        key = jax.random.key(3)
        first, second = draw_pair(key, images)
        again = draw_pair(key, images)
        np.testing.assert_array_equal(first, again[0])
        np.testing.assert_array_equal(second, again[1])
        assert difference(first, second) > 0.1
        other, _ = draw_pair(jax.random.key(4), images)
        assert difference(first, other) > 0.1

    def test_each_image_gets_its_own(self, photographs):
        images = np.broadcast_to(squares(photographs)[:1], (4, 64, 64, 3))
        seen, _ = draw_pair(jax.random.key(0), images)
        for a, b in itertools.combinations(seen, 2):
            assert difference(a, b) > 0.05

    @pytest.mark.slow
    def test_gray_images(self, photographs):
        images = squares(photographs)[..., :1]
        for seen in draw_pair(jax.random.key(0), images):
            assert seen.shape == (4, 32, 32, 1) and jnp.isfinite(seen).all()
        still = ImageViews(
            size=64, **WHOLE, **(OFF | dict(mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3)))
        )
        np.testing.assert_allclose(
            jax.jit(still)(jax.random.key(0), images),
            (floats(images) - 0.5) / 0.2,
            atol=1e-5,
        )

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "change, probability, view",
        thinned(
            [
                (dict(flip=0.5), 0.5, 0),
                (dict(jitter=0.8), 0.8, 0),
                (dict(gray=0.2), 0.2, 0),
                (dict(blur=(0.5, 0.1)), 0.5, 0),
                (dict(blur=(0.5, 0.1)), 0.1, 1),
                (dict(solarize=(0.1, 0.2)), 0.1, 0),
                (dict(solarize=(0.1, 0.2)), 0.2, 1),
            ],
            keep=[(dict(flip=0.5), 0.5, 0), (dict(blur=(0.5, 0.1)), 0.1, 1)],
        ),
    )
    def test_probabilities(self, photographs, change, probability, view):
        draws = 2000
        image = squares(photographs, side=12)[2:3]
        images = np.broadcast_to(image, (draws, 12, 12, 3))
        strong = dict(sigma=(1.0, 2.0), size=12) | WHOLE | OFF | change
        views = ImageViews(**strong)(jax.random.key(0), images, view=view)
        changed = np.any(np.abs(views - floats(image)) > 1e-3, axis=(1, 2, 3))
        # Five standard deviations.
        spread = 5 * math.sqrt(probability * (1 - probability) / draws)
        assert abs(changed.mean() - probability) < spread

    @pytest.mark.slow
    def test_jitter_draws_from_the_whole_range(self, photographs):
        # On one bright gray image brightness alone shows as a factor.
        images = jnp.full((4000, 2, 2, 1), 0.5)
        off = WHOLE | OFF | dict(contrast=0.0, saturation=0.0, hue=0.0, jitter=1.0)
        seen = ImageViews(size=2, **off)(jax.random.key(0), images)[:, 0, 0, 0] * 2
        expected = np.random.default_rng(0).uniform(0.6, 1.4, 4000)
        assert distance(seen, expected) < 2.9 * math.sqrt(2 / 4000)

    def test_official_recipe_is_asymmetric(self, photographs):
        views = ImageViews.official(size=32)
        assert views.blur == (1.0, 0.1) and views.solarize == (0.0, 0.2)
        assert views.size == 32 and ImageViews().blur == (0.5, 0.5)
        sharp = ImageViews.official(**(OFF | WHOLE | dict(size=64, sigma=(1.0, 2.0))))
        assert sharp.blur == (0.0, 0.0)

    @pytest.mark.slow
    @pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
    def test_are_the_same_on_eight_devices(self, photographs, axis_type):
        images = np.concatenate([squares(photographs)] * 2)
        views = ImageViews(size=24)
        kind = getattr(jax.sharding.AxisType, axis_type)
        mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
        sharding = NamedSharding(mesh, PartitionSpec("data"))
        expected = jax.jit(views.pair)(jax.random.key(0), images)
        with jax.set_mesh(mesh):
            program = (
                jax.jit(views.pair)
                .lower(jax.random.key(0), jax.device_put(images, sharding))
                .compile()
            )
            seen = program(jax.random.key(0), jax.device_put(images, sharding))
        for a, b in zip(seen, expected, strict=True):
            assert a.sharding.spec[0] == "data"
            np.testing.assert_allclose(a, b, atol=2e-5)
        for collective in ("all-gather", "all-reduce", "all-to-all"):
            assert f"{collective}(" not in program.as_text()

    @pytest.mark.slow
    def test_memory_is_a_few_images_an_image(self):
        images = jax.ShapeDtypeStruct((16, 256, 256, 3), jnp.uint8)
        program = jax.jit(ImageViews().pair).lower(jax.random.key(0), images).compile()
        temporaries = program.memory_analysis().temp_size_in_bytes / 16
        # Two views, as float32, are 1.1 MiB; the image itself 0.8.
        assert temporaries < 10 * 2**20


@pytest.mark.usefixtures("x64")
def test_views_are_float32_where_float64_is_switched_on(photographs):
    images, key = squares(photographs, 32), jax.random.key(0)
    views = ImageViews(size=16, local_views=1, local_size=8)
    seen, places = jax.jit(views.located)(key, images)
    finished, _ = jax.jit(views.finish)(key, images)
    found = [*seen, *(place[:4] for place in places), finished, views.plain(images)]
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
    with jax.enable_x64(False):
        wanted, _ = jax.jit(views.finish)(key, images)
    np.testing.assert_allclose(finished, wanted, atol=1e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(flip=1.5), r"`flip` must be a probability, got 1.5"),
        (dict(blur=(0.5, -0.1)), r"`blur` must be a probability, got \(0.5, -0.1\)"),
        (dict(brightness=-1.0), "`brightness` must be a number of at least 0, got -1"),
        (dict(hue=0.7), "`hue` must be from 0 to 0.5, got 0.7"),
        (dict(size=0), "`size` must be at least 1, got 0"),
        (dict(center=0.0), "`center` must be above 0 and at most 1, got 0"),
        (dict(std=(0.1, 0.0, 0.1)), "`std` must be above 0"),
        (dict(scale=(0.5, 0.1)), r"`scale` must be .* <= largest <= 1, got \(0.5"),
        (dict(ratio=(0.0, 1.0)), r"`ratio` must be .* <= largest, got \(0.0, 1.0\)"),
        (dict(scale=(0.5, 1.1)), r"`scale` must be .* <= 1, got \(0.5, 1.1\)"),
    ],
)
def test_refuses_what_could_not_be_drawn(change, message):
    with pytest.raises(ValueError, match=message):
        ImageViews(**change)
