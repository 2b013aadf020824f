"""Where the cells of views lie in the original image, and local views."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.augment import Crops, DigitViews, ImageViews, LocatedViews, Place

HEIGHT, WIDTH, GRID, IMAGES = 96, 128, 4, 8
PIXEL = 1 / HEIGHT
# Views of an image whose colors are coordinates, which only crops and flips change.
PLAIN = ImageViews(
    size=16,
    scale=(0.1, 0.5),
    jitter=0.0,
    gray=0.0,
    blur=(0.0, 0.0),
    solarize=(0.0, 0.0),
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    local_views=1,
    local_size=8,
    local_scale=(0.05, 0.1),
)


@cache
def drawn(follow_flips=True):
    """Returns views of coordinates: pair, all views, and the places of all."""
    views = dataclasses.replace(PLAIN, follow_flips=follow_flips)
    # Both coordinates in heights of the image, halved so that they stay in [0, 1].
    y, x = np.indices((HEIGHT, WIDTH)) + 0.5
    image = np.stack([y, x, y], axis=-1) / HEIGHT / 2
    images = jnp.asarray(np.repeat(image[None], IMAGES, axis=0), jnp.float32)

    def draw(key):
        return views.pair(key, images), *views.located(key, images)

    return jax.device_get(jax.jit(draw)(jax.random.key(3)))


def test_positions_are_the_mean_coordinates_of_cells():
    _, views, places = drawn()
    for view, place in zip(views, places, strict=True):
        assert 0 < place.flipped.mean() < 1
        side = view.shape[1] // GRID
        cells = 2 * view[..., :2].reshape(IMAGES, GRID, side, GRID, side, 2)
        found = place.cells(GRID, GRID)
        assert found.dtype == jnp.float32
        # At the image's border the filter of the crop has pixels on one side only.
        np.testing.assert_allclose(found, cells.mean(axis=(2, 4)), atol=PIXEL)


def test_positions_that_ignore_flips_are_mirrored():
    _, views, places = drawn()
    _, same, ignoring = drawn(follow_flips=False)
    for view, other in zip(views, same, strict=True):
        np.testing.assert_array_equal(view, other)
    for place, other in zip(places, ignoring, strict=True):
        cells, others = place.cells(GRID, GRID), other.cells(GRID, GRID)
        mirrored = jnp.where(
            place.flipped[:, None, None, None], cells[:, :, ::-1], cells
        )
        np.testing.assert_array_equal(others, mirrored)
        assert not other.flipped.any() and np.abs(cells - others).max() > 10 * PIXEL


def test_local_views_are_smaller_and_follow_those_of_the_pair():
    pair, views, places = drawn()
    shapes = [(IMAGES, side, side, 3) for side in (16, 16, 8)]
    assert [view.shape for view in views] == shapes
    for view, wanted in zip(views, pair, strict=False):
        np.testing.assert_array_equal(view, wanted)
    scales = (PLAIN.scale, PLAIN.scale, PLAIN.local_scale)
    for place, (least, most) in zip(places, scales, strict=True):
        area = place.height * place.width
        assert least <= area.min() and area.max() <= most
        assert np.all((place.top + place.height <= 1) & np.isclose(place.aspect, 4 / 3))
        assert np.all(place.left + place.width <= 1)


def test_crops_from_the_host_have_positions_too():
    """Each pixel of a crop has its own place as its color."""
    aspect = jnp.full(IMAGES, 1.5)
    boxes = np.random.default_rng(0).uniform(0.1, 0.5, (IMAGES, 3, 4)).astype("f")
    crops = []
    for wanted, of_crop in zip(PLAIN.crops, np.split(boxes, [2], axis=1), strict=True):
        top, left, height, width = np.moveaxis(of_crop[..., None], 2, 0)
        inside = (np.arange(wanted.size, dtype="f") + 0.5) / wanted.size
        y, x = top + height * inside, left + width * inside
        shape = (IMAGES, wanted.count, wanted.size, wanted.size)
        y = np.broadcast_to(y[..., :, None], shape)
        x = np.broadcast_to(x[..., None, :], shape)
        crops.append(Crops(np.stack([y, x, x], axis=-1), of_crop))
    views, places = jax.jit(PLAIN.located)(jax.random.key(0), tuple(crops), aspect)
    assert [view.shape[1] for view in views] == [16, 16, 8]
    for view, place in zip(views, places, strict=True):
        assert 0 < place.flipped.mean() < 1
        side = view.shape[1] // GRID
        cells = view[..., :2].reshape(IMAGES, GRID, side, GRID, side, 2)
        expected = cells.mean(axis=(2, 4)) * jnp.array([1, 1.5])
        np.testing.assert_allclose(place.cells(GRID, GRID), expected, atol=1e-5)


def test_cells_of_a_map_that_is_not_square():
    ones = jnp.ones(1)
    place = Place(0.25 * ones, 0 * ones, 0.5 * ones, ones, 2 * ones, ones > 0)
    found = place.cells(2, 4)
    np.testing.assert_allclose(found[0, :, 0, 0], [0.375, 0.625])
    np.testing.assert_allclose(found[0, 0, :, 1], [1.75, 1.25, 0.75, 0.25])


def test_the_protocol():
    assert isinstance(PLAIN, LocatedViews)
    assert not isinstance(DigitViews(), LocatedViews)


@pytest.mark.parametrize(
    "setting", [{"local_views": -1}, {"local_size": 0}, {"local_scale": (0.5, 1.5)}]
)
def test_settings_are_checked(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        dataclasses.replace(PLAIN, **setting)
