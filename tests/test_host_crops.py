"""Crops from the original pixels: boxes, pixels, batches, and their views."""

import dataclasses
import importlib.util
import io
import itertools
import math

import grain
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from photographs import CHINA, FLOWER, write_photographs
from runs import arrays
from scipy import stats

from vicreg_jax import _pixels
from vicreg_jax.augment import CenterCrop, ImageViews, RandomCrops
from vicreg_jax.augment.crops import TRIES, uniform
from vicreg_jax.decode import UnreadableError, decode_crops
from vicreg_jax.pretrain import pretrain
from vicreg_jax.pretrain.config import Config
from vicreg_jax.pretrain.input import (
    batches,
    folder,
    load_datasets,
    open_source,
    pack,
)

BICUBIC = PIL.Image.Resampling.BICUBIC
HEIGHT, WIDTH = 375, 500
VIEWS = ImageViews(size=8)
# Only crops and flips, which compile quickly.
STILL = dataclasses.replace(VIEWS, jitter=0.0, gray=0.0, blur=(0, 0), solarize=(0, 0))
PINNED = [0.581869289, 0.4299589288, 0.7170568553, 0.0257311838]
fast = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("simplejpeg", "cykooz_resizer"))),
    reason="needs `pip install vicreg_jax[fast-input]`",
)


@pytest.fixture
def pillow(monkeypatch):
    """Decodes and resizes with Pillow, also where `fast-input` is installed."""
    monkeypatch.setattr(_pixels, "simplejpeg", None)
    monkeypatch.setattr(_pixels, "cykooz_resizer", None)


@pytest.fixture
def photographs(tmp_path):
    """See `write_photographs`."""
    return write_photographs(tmp_path / "photographs")


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def cut(image, *croppings, channels=3, seed=0):
    numbers = [
        uniform(seed, 0, range(1), count=cropping.count, stream=stream)[0]
        for stream, cropping in enumerate(croppings)
    ]
    return decode_crops(image, croppings, numbers, channels=channels)


def of_pillow(image, box, size):
    """Returns what Pillow makes of a box in fractions of the image."""
    height, width = image.height, image.width
    top, left, tall, wide = (float(side) for side in box)
    corners = left * width, top * height, (left + wide) * width, (top + tall) * height
    # The box was float32.
    corners = [
        min(max(corner, 0), most)
        for corner, most in zip(corners, (width, height) * 2, strict=True)
    ]
    return np.asarray(image.resize((size, size), BICUBIC, corners))


class TestBoxes:
    CROPS = RandomCrops(1, 224, (0.08, 1.0), (3 / 4, 4 / 3))

    def test_are_distributed_as_torchvisions(self):
        """Against NumPy's own generator and torchvision's steps, 5000 boxes each."""
        drawn = uniform(3, 5, range(5000), count=1)
        ours = np.array([self.CROPS.boxes(row, HEIGHT, WIDTH)[0] for row in drawn])
        theirs = np.array(
            [_torchvisions_box(np.random.default_rng(i)) for i in range(5000)]
        )
        for column in (0, 1, 2, 3):
            assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.01
        areas = [(boxes[:, 2] * boxes[:, 3]) for boxes in (ours, theirs)]
        assert stats.ks_2samp(*areas).pvalue > 0.01
        ratios = [boxes[:, 3] / boxes[:, 2] for boxes in (ours, theirs)]
        assert stats.ks_2samp(*ratios).pvalue > 0.01

    def test_small_boxes_are_uniform_in_area_ratio_and_place(self):
        """They always fit, so that no try is rejected."""
        crops = RandomCrops(1, 224, (0.1, 0.3), (0.5, 2.0))
        side = 10_000  # whole pixels are fine steps there
        drawn = uniform(0, 0, range(3000), count=1)
        boxes = np.array([crops.boxes(row, side, side)[0] for row in drawn])
        top, left, height, width = boxes.T
        for found, low, high in (
            (height * width / side**2, 0.1, 0.3),
            (np.log(width / height), math.log(0.5), math.log(2)),
            (top / (side - height), 0, 1),
            (left / (side - width), 0, 1),
        ):
            assert found.min() >= low - 1e-3 and found.max() <= high + 1e-3
            assert stats.kstest(found, stats.uniform(low, high - low).cdf).pvalue > 0.01

    @pytest.mark.parametrize("height, width", [(375, 500), (1, 1), (3, 200), (900, 7)])
    def test_lie_in_the_image(self, height, width):
        crops = RandomCrops(4, 8)
        for row in uniform(1, 2, range(200), count=4):
            for top, left, tall, wide in crops.boxes(row, height, width):
                assert 0 <= top <= top + tall <= height and tall >= 1
                assert 0 <= left <= left + wide <= width and wide >= 1

    @pytest.mark.parametrize(
        "height, width, box",
        [(50, 1000, (0, 466, 50, 67)), (1000, 60, (460, 0, 80, 60))],
    )
    def test_the_largest_centered_box_if_none_fits(self, height, width, box):
        whole = RandomCrops(1, 8, scale=(1.0, 1.0))
        (row,) = uniform(0, 0, range(1), count=1)
        assert whole.boxes(row, height, width) == [box]

    @pytest.mark.usefixtures("unchecked_signatures")
    @pytest.mark.parametrize(
        "kind, change, message",
        [
            (RandomCrops, {"count": 0}, "`count` must be at least 1, got 0"),
            (RandomCrops, {"scale": (0.5, 2.0)}, "`scale` must be .smallest, largest."),
            (CenterCrop, {"size": 0}, "`size` must be at least 1, got 0"),
            (CenterCrop, {"center": 0.0}, "`center` must be above 0 and at most 1"),
            (CenterCrop, {"center": 2.0}, "`center` must be above 0 and at most 1"),
        ],
    )
    def test_settings_out_of_range(self, kind, change, message):
        with pytest.raises(ValueError, match=message):
            kind(**change)


def _torchvisions_box(rng):
    """RandomResizedCrop.get_params as torchvision documents it."""
    low, high = np.log([3 / 4, 4 / 3])
    for _ in range(10):
        area = HEIGHT * WIDTH * rng.uniform(0.08, 1.0)
        ratio = np.exp(rng.uniform(low, high))
        width, height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < width <= WIDTH and 0 < height <= HEIGHT:
            top = rng.integers(0, HEIGHT - height + 1)
            return top, rng.integers(0, WIDTH - width + 1), height, width
    return 0, 0, HEIGHT, WIDTH  # its aspect ratio is within the bounds


class TestNumbers:
    def test_depend_on_seed_step_row_and_stream_alone(self):
        whole = uniform(7, 11, range(8), count=3)
        assert whole.shape == (8, 3, TRIES, 4)
        parts = [uniform(7, 11, range(i, i + 2), count=3) for i in range(0, 8, 2)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        # What a run draws today is what it draws tomorrow, also after an upgrade.
        np.testing.assert_allclose(whole[5, 1, 2], PINNED, rtol=0, atol=1e-9)
        others = (
            uniform(8, 11, range(8), count=3),
            uniform(7, 12, range(8), count=3),
            uniform(7, 11, range(8, 16), count=3),
            uniform(7, 11, range(8), count=3, stream=1),
        )
        for left, right in itertools.combinations((whole, *others), 2):
            assert not np.isin(left, right).any()

    def test_are_uniform_and_independent(self):
        drawn = uniform(0, 2**33, range(500), count=1).reshape(-1, 4)
        assert drawn.min() >= 0 and drawn.max() < 1
        assert stats.kstest(drawn.ravel(), "uniform").pvalue > 0.01
        assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.05


class TestPixels:
    @pytest.mark.usefixtures("pillow")
    @pytest.mark.parametrize("channels, mode", [(3, "RGB"), (1, "L")])
    @pytest.mark.parametrize("size", [16, 96])
    def test_are_pillows(self, channels, mode, size):
        crops = RandomCrops(4, size)
        ((pixels, boxes),), aspect = cut(encoded(CHINA), crops, channels=channels)
        assert pixels.shape == (4, size, size, channels) and pixels.dtype == np.uint8
        assert boxes.shape == (4, 4) and boxes.dtype == np.float32
        assert aspect == CHINA.shape[1] / CHINA.shape[0]
        image = PIL.Image.fromarray(CHINA).convert(mode)
        for found, box in zip(pixels, boxes, strict=True):
            wanted = of_pillow(image, box, size).reshape(size, size, channels)
            assert np.abs(found.astype(int) - wanted).max() <= 1

    @pytest.mark.usefixtures("pillow")
    @pytest.mark.parametrize("height, width", [(375, 500), (427, 333), (90, 120)])
    def test_the_center_is_that_of_a_resized_image(self, height, width):
        """As Resize(32) and CenterCrop(28) of torchvision."""
        image = PIL.Image.fromarray(FLOWER[:height, :width])
        ((pixels, boxes),), _ = cut(encoded(np.asarray(image)), CenterCrop(28))
        tall, wide = (int(32 * side / min(height, width)) for side in (height, width))
        whole = np.asarray(image.resize((wide, tall), BICUBIC)).astype(int)
        top, left = round((tall - 28) / 2), round((wide - 28) / 2)
        wanted = whole[top : top + 28, left : left + 28]
        assert np.abs(pixels[0] - wanted).max() <= 1
        np.testing.assert_allclose(
            boxes[0], [top / tall, left / wide, 28 / tall, 28 / wide], rtol=1e-6
        )

    def test_several_sizes_from_one_decoding(self):
        both, _ = cut(encoded(CHINA), RandomCrops(2, 24), RandomCrops(3, 8, (0.1, 0.2)))
        assert [part.pixels.shape for part in both] == [(2, 24, 24, 3), (3, 8, 8, 3)]
        areas = both[1].boxes[:, 2] * both[1].boxes[:, 3]
        assert (areas > 0.09).all() and (areas < 0.21).all()

    def test_of_a_turned_camera_are_upright(self):
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        turned = encoded(np.rot90(FLOWER), "JPEG", quality=95, exif=exif)
        upright = encoded(FLOWER, "JPEG", quality=95)
        for size in (8, 64):  # drafted and not
            ((found, boxes),), aspect = cut(turned, RandomCrops(2, size))
            ((wanted, same),), _ = cut(upright, RandomCrops(2, size))
            assert aspect == FLOWER.shape[1] / FLOWER.shape[0]
            np.testing.assert_array_equal(boxes, same)
            assert np.abs(found.astype(int) - wanted).mean() < 2

    def test_of_an_unknown_orientation_are_not_turned(self):
        exif = PIL.Image.Exif()
        exif[0x0112] = 9
        unknown = encoded(FLOWER, "JPEG", exif=exif)
        (found,), aspect = cut(unknown, RandomCrops(2, 8))
        (wanted,), same = cut(encoded(FLOWER, "JPEG"), RandomCrops(2, 8))
        assert aspect == same
        jax.tree.map(np.testing.assert_array_equal, found, wanted)

    def test_of_a_large_jpeg_look_the_same(self):
        """Decoded at a quarter of its size, which leaves at least twice the pixels."""
        large = PIL.Image.fromarray(FLOWER).resize((1920, 1280), BICUBIC)
        content = encoded(np.asarray(large), "JPEG", quality=95)
        crops = RandomCrops(2, 48, (0.5, 1.0))
        ((pixels, boxes),), _ = cut(content, crops)
        whole = PIL.Image.open(io.BytesIO(content))
        for found, box in zip(pixels, boxes, strict=True):
            error = np.abs(found.astype(int) - of_pillow(whole, box, 48))
            assert error.mean() < 1 and np.quantile(error, 0.999) <= 8

    def test_of_a_damaged_file(self):
        with pytest.raises(UnreadableError):
            cut(encoded(CHINA, "JPEG")[:5000], RandomCrops(2, 8))


@fast
class TestFastPackages:
    @pytest.mark.parametrize("channels", [3, 1])
    def test_decode_to_the_same_pixels(self, monkeypatch, channels):
        monkeypatch.setattr(_pixels, "cykooz_resizer", None)
        color = encoded(CHINA, "JPEG", quality=90)
        gray = encoded(CHINA[..., 0], "JPEG", quality=90)
        for content in (color, gray):
            monkeypatch.setattr(
                _pixels, "simplejpeg", importlib.import_module("simplejpeg")
            )
            found = cut(content, RandomCrops(2, 64), channels=channels)
            monkeypatch.setattr(_pixels, "simplejpeg", None)
            wanted = cut(content, RandomCrops(2, 64), channels=channels)
            np.testing.assert_array_equal(found.crops[0].pixels, wanted.crops[0].pixels)

    @pytest.mark.parametrize("size", [16, 96])
    def test_resize_as_pillow_but_for_roundings(self, monkeypatch, size):
        found = cut(encoded(CHINA), RandomCrops(8, size)).crops[0].pixels.astype(int)
        monkeypatch.setattr(_pixels, "cykooz_resizer", None)
        error = np.abs(
            found - cut(encoded(CHINA), RandomCrops(8, size)).crops[0].pixels
        )
        assert error.max() <= 16 and np.quantile(error, 0.999) <= 1

    def test_what_simplejpeg_refuses_is_left_to_pillow(self):
        cmyk = io.BytesIO()
        PIL.Image.fromarray(CHINA).convert("CMYK").save(cmyk, "JPEG", quality=95)
        found, wanted = (
            cut(content, RandomCrops(1, 32)).crops[0].pixels.astype(int)
            for content in (cmyk.getvalue(), encoded(CHINA))
        )
        assert np.abs(found - wanted).mean() < 5


class TestBatches:
    CROPS = (RandomCrops(2, 8), RandomCrops(1, 4, (0.1, 0.3)))

    def read(self, source, steps, **options):
        reading = batches(source, crops=self.CROPS, seed=2, **options)
        found = list(itertools.islice(reading, steps))
        reading.close()
        return found

    def assert_equal(self, left, right):
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype

    def test_hold_one_array_for_each_size(self, photographs):
        (batch,) = self.read(folder(photographs, size=8), 1, batch=4)
        shapes = [part.pixels.shape for part in batch.images]
        assert shapes == [(4, 2, 8, 8, 3), (4, 1, 4, 4, 3)]
        assert [part.boxes.shape for part in batch.images] == [(4, 2, 4), (4, 1, 4)]

    def test_records_give_what_files_give(self, photographs, tmp_path):
        files = folder(photographs, size=8)
        pack(files, tmp_path / "records", shards=2)
        records = open_source(tmp_path / "records", size=8)
        self.assert_equal(self.read(records, 2, batch=4), self.read(files, 2, batch=4))

    @pytest.mark.parametrize("count", [2, 4])
    def test_shards_make_one_batch_damaged_images_and_all(self, photographs, count):
        for name in ("china/3.jpg", "flower/0.png"):
            (photographs / name).write_bytes(b"damaged")
        source = folder(photographs, size=8)
        whole = self.read(source, 4, batch=8)
        parts = [
            self.read(
                source,
                4,
                batch=8,
                shard=grain.sharding.ShardOptions(shard_index=i, shard_count=count),
            )
            for i in range(count)
        ]
        joined = [
            jax.tree.map(lambda *rows: np.concatenate(rows), *step)
            for step in zip(*parts, strict=True)
        ]
        self.assert_equal(joined, whole)

    def test_can_be_taken_up_anywhere(self, photographs):
        source = folder(photographs, size=8)
        wanted = self.read(source, 4, batch=5)[3]
        reading = batches(source, crops=self.CROPS, seed=2, batch=5)
        reading.seek(3)
        self.assert_equal(next(reading), wanted)

    @pytest.mark.slow
    def test_worker_processes_change_nothing(self, photographs):
        source = folder(photographs, size=8)
        plain = self.read(source, 5, batch=4, threads=1)
        self.assert_equal(self.read(source, 5, batch=4, workers=2), plain)

    def test_rows_without_an_image_are_black(self, photographs):
        options = {"drop_remainder": False, "epochs": 1, "shuffle": False}
        last = self.read(folder(photographs, size=8), 9, batch=8, **options)[-1]
        assert last.where.tolist() == [True] * 4 + [False] * 4
        assert not last.images[0].pixels[4:].any()
        np.testing.assert_array_equal(
            last.images[0].boxes[4:], [[[0, 0, 1, 1]] * 2] * 4
        )

    def test_of_arrays_are_whole(self):
        source = open_source("digits")
        (batch,) = self.read(source, 1, batch=4)
        assert batch.images.shape == (4, 8, 8, 1)


class TestViews:
    def crops(self):
        content = encoded(CHINA)
        rows = [cut(content, *STILL.crops, seed=seed).crops for seed in range(16)]
        return jax.tree.map(lambda *parts: jnp.asarray(np.stack(parts)), *rows)

    def test_plain_is_normalized_alone(self):
        (parts,) = self.crops()
        found = STILL.plain((parts,))
        wanted = np.asarray(parts.pixels[:, 0]) / 255 - np.array(STILL.mean)
        np.testing.assert_allclose(found, wanted / STILL.std, rtol=1e-5, atol=1e-6)

    def test_pair_finishes_the_two_crops_and_finish_says_which_are_mirrored(self):
        key, (parts,) = jax.random.key(1), self.crops()
        pair = jax.jit(STILL.pair)(key, (parts,))
        for view, own in enumerate(jax.random.split(key)):
            pixels = parts.pixels[:, view]
            found, mirrored = STILL.finish(own, pixels, view=view)
            np.testing.assert_array_equal(pair[view], found)
            assert 2 < mirrored.sum() < 14
            plain = STILL.plain((parts._replace(pixels=pixels[:, None]),))
            wanted = jnp.where(mirrored[:, None, None, None], plain[:, :, ::-1], plain)
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)

    @pytest.mark.slow
    @pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
    def test_a_run_embeds_files_as_its_probes_saw_them(self, photographs, tmp_path):
        small = {"width": 4, "expander": 16, "batch": 8, "epochs": 2}
        config = Config(data=str(photographs), size=8, channels=3, views=STILL, **small)
        run = pretrain(config, out=tmp_path / "run", mesh="data=1", console=None)
        _, held_out = load_datasets(config)
        found = arrays(run.run_folder / "features.npz")
        paths = [held_out.name(index) for index in range(len(held_out))]
        np.testing.assert_allclose(
            run.encoder.embed(paths), found["features"], rtol=1e-4, atol=1e-5
        )
        assert (run.run_folder / "views.png").exists()

    def test_config_says_where(self):
        config = Config(views=VIEWS)
        assert config.crops == VIEWS.crops and config.plain_crops == VIEWS.plain_crops
        assert Config().crops == Config().plain_crops == ()  # of digits
        assert Config(views=VIEWS, crop="device").crops == ()
