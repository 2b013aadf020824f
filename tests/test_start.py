"""The picture of views that a run draws before it starts."""

import dataclasses

import numpy as np
import PIL.Image
import pytest
from runs import tiny

from benchmarks.mirrored import MirroredViews
from vicreg_jax.augment import ImageViews
from vicreg_jax.pretrain.input import Arrays
from vicreg_jax.pretrain.start import draw_views

pytestmark = pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")


@dataclasses.dataclass(frozen=True)
class Negatives(MirroredViews):
    """A user's own, which tell their pixels."""

    def plain(self, images, aspect):
        return 1 - super().plain(images, aspect)

    def unnormalized(self, views):
        return 1 - views


OFF = {"jitter": 0.0, "gray": 0.0, "blur": (0.0, 0.0), "solarize": (0.0, 0.0)}


@pytest.mark.parametrize(
    "views, channels",
    [
        (ImageViews(8, mean=(0.2, 0.5, 0.7), std=(0.1, 0.3, 0.2), **OFF), 1),
        (ImageViews(8, mean=(0.2, 0.5, 0.7), std=(0.1, 0.3, 0.2), **OFF), 3),
        (Negatives(8), 3),
    ],
)
def test_views_have_the_colors_of_their_images(tmp_path, views, channels):
    """Crops of plain images are plain; a common scale would make them 0 and 255."""
    colors = np.array([[90, 150, 40], [100, 60, 200]], np.uint8)[:, :channels]
    images = np.broadcast_to(colors[:, None, None], (2, 8, 8, channels))
    source = Arrays(images, np.zeros(2, np.int32))
    draw_views(source, tiny(views=views, channels=channels), tmp_path)
    with PIL.Image.open(tmp_path / "views.png") as grid:
        rows = np.asarray(grid).reshape(3, 98, 2, 98, 3)
    centers = rows[:, 49, :, 49].astype(int)
    np.testing.assert_array_equal(centers[0], np.broadcast_to(colors, (2, 3)))
    np.testing.assert_allclose(centers, centers[[0, 0, 0]], atol=1)
