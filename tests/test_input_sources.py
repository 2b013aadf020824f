"""Decoding, and images by name and by path."""

import hashlib
import os
import pickle

import numpy as np
import PIL.Image
import pytest
from photographs import CHINA, FLOWER, numbered, write_photographs

from vicreg_jax import _pixels
from vicreg_jax.decode import decode
from vicreg_jax.pretrain.errors import MissingPackageError, UsageError
from vicreg_jax.pretrain.input import (
    Records,
    UnreadableError,
    _example,
    cifar,
    datasets,
    folder,
    open_source,
    pack,
    split,
)


@pytest.fixture
def photographs(tmp_path):
    """See `write_photographs`."""
    return write_photographs(tmp_path)


class TestDecode:
    @pytest.mark.parametrize("channels, mode", [(3, "RGB"), (1, "L")])
    def test_is_the_bicubic_of_pil(self, tmp_path, monkeypatch, channels, mode):
        monkeypatch.setattr(_pixels, "cykooz_resizer", None)
        image = PIL.Image.fromarray(CHINA)
        image.save(tmp_path / "china.png")
        pixels, aspect = decode(tmp_path / "china.png", size=64, channels=channels)
        expected = image.convert(mode).resize((64, 64), PIL.Image.BICUBIC)
        np.testing.assert_array_equal(
            pixels, np.asarray(expected).reshape(64, 64, channels)
        )
        assert pixels.dtype == np.uint8
        assert aspect == CHINA.shape[1] / CHINA.shape[0]

    def test_a_large_jpeg_decoded_small_looks_the_same(self, tmp_path):
        large = PIL.Image.fromarray(FLOWER).resize((1920, 1280), PIL.Image.BICUBIC)
        large.save(tmp_path / "large.jpg", quality=95)
        pixels, aspect = decode(tmp_path / "large.jpg", size=96, channels=3)
        whole = PIL.Image.open(tmp_path / "large.jpg").resize(
            (96, 96), PIL.Image.BICUBIC
        )
        error = np.abs(pixels.astype(int) - np.asarray(whole))
        assert error.mean() < 1 and np.quantile(error, 0.999) <= 8
        assert aspect == 1.5

    def test_bytes_sixteen_bits_palettes_and_turned_cameras(self, tmp_path):
        ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
        PIL.Image.fromarray(ramp).save(tmp_path / "deep.png")
        content = (tmp_path / "deep.png").read_bytes()
        pixels, _ = decode(content, size=16, channels=1)
        np.testing.assert_array_equal(pixels[..., 0], ramp >> 8)
        PIL.Image.fromarray(CHINA).quantize(16).save(tmp_path / "palette.gif")
        assert decode(tmp_path / "palette.gif", size=8, channels=3)[0].std() > 20
        exif = PIL.Image.Exif()
        exif[0x0112] = 6  # the camera was turned by a quarter
        PIL.Image.fromarray(CHINA).save(tmp_path / "turned.jpg", exif=exif)
        _, aspect = decode(tmp_path / "turned.jpg", size=8, channels=3)
        assert aspect == pytest.approx(CHINA.shape[0] / CHINA.shape[1])
        # Pillow turns these itself, but not before it loads them.
        PIL.Image.fromarray(CHINA).save(tmp_path / "turned.tif", exif=exif)
        pixels, aspect = decode(tmp_path / "turned.tif", size=8, channels=3)
        assert aspect == pytest.approx(CHINA.shape[0] / CHINA.shape[1])
        with PIL.Image.open(tmp_path / "turned.tif") as opened:
            same, _ = decode(opened, size=8, channels=3)
        np.testing.assert_array_equal(pixels, same)

    @pytest.mark.parametrize("channels, mode", [(3, "RGB"), (1, "L")])
    def test_alpha_is_composed_on_white(self, tmp_path, channels, mode):
        pixels = np.zeros((4, 4, 4), np.uint8)
        pixels[..., 3] = np.arange(16).reshape(4, 4) * 17
        rgba = PIL.Image.fromarray(pixels)
        rgba.save(tmp_path / "rgba.png")
        rgba.convert("LA").save(tmp_path / "la.png")
        for name in ("rgba.png", "la.png"):
            decoded, _ = decode(tmp_path / name, size=4, channels=channels)
            white = np.broadcast_to(255 - pixels[..., 3:], (4, 4, channels))
            np.testing.assert_array_equal(decoded, white)
        palette = PIL.Image.new("P", (4, 4))
        palette.putpalette([9, 9, 9])
        palette.save(tmp_path / "palette.png", transparency=0)
        decoded, _ = decode(tmp_path / "palette.png", size=4, channels=channels)
        assert (decoded == 255).all()

    def test_says_what_is_wrong(self, tmp_path):
        with pytest.raises(UnreadableError, match="FileNotFoundError: .*absent.png"):
            decode(tmp_path / "absent.png", size=8, channels=3)
        with pytest.raises(UnreadableError, match="UnidentifiedImageError"):
            decode(b"no image", size=8, channels=3)
        PIL.Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "floats.tif")
        with pytest.raises(UnreadableError, match="floating-point pixels is unknown"):
            decode(tmp_path / "floats.tif", size=8, channels=1)


class TestSources:
    def test_folder_by_class(self, photographs):
        source = folder(photographs, size=16)
        assert len(source) == 12 and source.classes == ("china", "flower")
        np.testing.assert_array_equal(source.labels, [0] * 6 + [1] * 6)
        assert source.labels.dtype == np.int32
        assert source.name(0) == str(photographs / "china" / "0.png")
        image, label, aspect = source[11]
        assert source.name(11).endswith("flower/deep/5.jpg")
        assert image.shape == source.shape == (16, 16, 3)
        assert label == 1 and aspect == 125 / 90

    def test_folder_without_classes(self, photographs):
        flat = folder(photographs / "china", size=16)
        assert flat.classes == () and set(flat.labels) == {-1} and len(flat) == 6

    def test_hidden_files_and_folders_are_no_images(self, photographs):
        for name in ("._0.png", "china/._0.png", ".thumbnails/0.png"):
            (photographs / name).parent.mkdir(exist_ok=True)
            (photographs / name).write_bytes(b"")
        source = folder(photographs, size=16)
        assert len(source) == 12 and source.classes == ("china", "flower")

    def test_records_are_the_files(self, photographs, tmp_path):
        files = folder(photographs, size=16)
        written = pack(files, tmp_path / "records", shards=3)
        assert len(written) == 3
        records = open_source(tmp_path / "records", size=16)
        assert isinstance(records, Records) and len(records) == 12
        for i in range(12):
            np.testing.assert_array_equal(records[i].image, files[i].image)
            assert records[i][1:] == files[i][1:]
        np.testing.assert_array_equal(records.labels, files.labels)
        unpickled = pickle.loads(pickle.dumps(records))
        np.testing.assert_array_equal(unpickled[3].image, files[3].image)
        assert "record 3 of" in records.name(3)

    def test_example_messages(self):
        features = {"image": b"\x00\xff" * 300, "label": 7, "offset": -3}
        message = _example.build(features)
        assert _example.parse(message) == features
        for damaged in (message[:-1], b"\xff", b"\x08\x01", b"no message at all"):
            with pytest.raises(ValueError, match="not a tf.train.Example"):
                _example.parse(damaged)
        # As TensorFlow writes it: numbers packed, floats among the features.
        tensorflow = (
            b"\x0a\x25"
            b"\x0a\x0f\x0a\x05label\x12\x06\x1a\x04\x0a\x02\xac\x02"
            b"\x0a\x12\x0a\x06weight\x12\x08\x12\x06\x0a\x04\x00\x00\x80\x3f"
        )
        assert _example.parse(tensorflow) == {"label": 300}

    @pytest.mark.parametrize(
        "name, side, count", [("mnist", 28, 5000), ("digits", 8, 1797)]
    )
    def test_split_holds_out_a_fifth_of_each_digit(self, name, side, count):
        source = open_source(name)
        assert source.shape == (side, side, 1) and len(source) == count
        train, held_out = split(source)
        assert len(train) + len(held_out) == count
        shares = np.bincount(held_out.labels) / np.bincount(source.labels)
        np.testing.assert_allclose(shares, 0.2, atol=0.01)

    def test_split_is_stratified(self, photographs):
        parts = train, held_out = split(folder(photographs, size=8))
        assert sorted(np.bincount(held_out.labels)) == [1, 2] and len(train) == 9
        assert all(part.classes == ("china", "flower") for part in parts)
        names = {part.name(i) for part in parts for i in range(len(part))}
        assert len(names) == 12

    def test_elpv(self):
        pytest.importorskip("elpv_dataset")
        source = open_source("elpv", size=32, channels=1)
        np.testing.assert_array_equal(np.bincount(source.labels), [1803, 821])
        assert source[2623].image.shape == (32, 32, 1)
        assert source[2623].image.std() > 5

    def test_numpy_files(self, tmp_path):
        images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
        np.save(tmp_path / "images.npy", images)
        source = open_source(tmp_path / "images.npy")
        np.testing.assert_array_equal(source[3].image, images[3])
        assert source[3].label == -1 and source[3].aspect == 1
        np.savez(tmp_path / "set.npz", images=images[..., 0], labels=np.arange(5) % 2)
        gray = open_source(tmp_path / "set.npz")
        assert gray.shape == (4, 4, 1) and gray.classes == ("0", "1")
        np.savez(tmp_path / "bad.npz", images=images / 255)
        with pytest.raises(ValueError, match=r"uint8 `images`.* got float64 \(5, 4, 4"):
            open_source(tmp_path / "bad.npz")
        np.savez(tmp_path / "bad.npz", images=images, labels=np.arange(4))
        with pytest.raises(ValueError, match=r"each of the 5 images, got shape \(4,\)"):
            open_source(tmp_path / "bad.npz")

    @pytest.mark.parametrize("labels", [np.zeros(5), np.array(list("abcde"))])
    def test_labels_are_integers(self, tmp_path, labels):
        images = np.zeros((5, 4, 4), np.uint8)
        np.savez(tmp_path / "set.npz", images=images, labels=labels)
        with pytest.raises(UsageError, match="--data must hold an integer label"):
            open_source(tmp_path / "set.npz")

    def test_labels_below_minus_one(self, tmp_path):
        images = np.zeros((3, 4, 4), np.uint8)
        np.savez(tmp_path / "set.npz", images=images, labels=np.array([-1, -1, 1]))
        assert open_source(tmp_path / "set.npz").classes == ("0", "1")
        np.savez(tmp_path / "set.npz", images=images, labels=np.array([0, 1, -2]))
        with pytest.raises(UsageError, match="labels of at least -1, .* got -2 in .*s"):
            open_source(tmp_path / "set.npz")

    @pytest.mark.parametrize("content", [b"no array", b"", b"\x93NUMPY", b"PK\x03\x04"])
    def test_what_is_no_array(self, tmp_path, content):
        (tmp_path / "set.npz").write_bytes(content)
        with pytest.raises(UsageError, match="--data must hold arrays of numbers, got"):
            open_source(tmp_path / "set.npz")
        np.save(tmp_path / "objects.npy", np.array([print], object))
        with pytest.raises(UsageError, match="^--data must hold arrays of numbers, g"):
            open_source(tmp_path / "objects.npy")
        np.save(tmp_path / "empty.npy", np.zeros((0, 4, 4), np.uint8))
        with pytest.raises(UsageError, match="must hold at least 1 image, got none"):
            open_source(tmp_path / "empty.npy")

    def test_an_empty_name_is_not_the_current_directory(self):
        with pytest.raises(UsageError, match="^--data must be a name or a path, got"):
            open_source("")

    def test_a_package_that_is_missing(self, monkeypatch):
        monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(MissingPackageError, match="needs `pip install elpv-data"):
            open_source("elpv")

    def test_refuses_what_is_not_there(self, tmp_path):
        with pytest.raises(
            FileNotFoundError, match="^--data must be mnist.*; cats doe"
        ):
            open_source("cats")
        with pytest.raises(FileNotFoundError, match="^--test-data must be mnist"):
            open_source("cats", name="test_data")
        with pytest.raises(FileNotFoundError, match="--data must hold images, found"):
            open_source(tmp_path)
        with pytest.raises(FileNotFoundError, match="`root` must be a folder of imag"):
            folder(tmp_path / "absent", size=8)
        (tmp_path / "a.png").write_bytes(b"")
        with pytest.raises(
            UsageError, match="^--data must be .* .*/a.png is another file"
        ):
            open_source(tmp_path / "a.png")
        with pytest.raises(NotADirectoryError, match="got a file, .*a.png"):
            folder(tmp_path / "a.png", size=8)
        with pytest.raises(UsageError, match="label for every image.* none for 1 of 1"):
            split(folder(tmp_path, size=8))

    @pytest.mark.parametrize("labels", [[0, 0, 0, 0, 1], [0, 0, 1, 1], [0]])
    def test_refuses_to_hold_out_a_fifth_of_too_few(self, labels):
        few = numbered(len(labels))
        few.labels[:] = labels
        with pytest.raises(UsageError, match="at least 2 images of each class"):
            split(few)


class Hostile:
    """A pickle of it makes a directory when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestCifar:
    @pytest.fixture(autouse=True)
    def sums(self, monkeypatch):
        """The table of sums, as nobody has the published files here."""
        self.md5 = dict.fromkeys(cifar.MD5, "")
        monkeypatch.setattr(cifar, "MD5", self.md5)

    def publish(self, path, content):
        """Writes a file as the published ones were, and enters its sum."""
        pickled = pickle.dumps(content, protocol=2)
        pickled = pickled.replace(b"numpy._core", b"numpy.core")  # as before NumPy 2
        path.write_bytes(pickled)
        self.md5[path.name] = hashlib.md5(pickled).hexdigest()

    def test_cifar10(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), np.uint8)
        names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
        for i, name in enumerate(names):
            part = pixels[2 * i : 2 * i + 2].reshape(2, -1)
            self.publish(tmp_path / name, {b"data": part, b"labels": [i, i + 1]})
        source = open_source(tmp_path)
        assert len(source) == 10 and source[9].label == 5
        assert source.classes == tuple("012345")
        np.testing.assert_array_equal(source[4].image, pixels[4].transpose(1, 2, 0))
        words = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog"]
        self.publish(tmp_path / "batches.meta", {b"label_names": words})
        others = open_source(tmp_path / "test_batch")
        assert list(others.labels) == [5, 6] and others.classes[6] == "frog"
        np.testing.assert_array_equal(others[1].image, pixels[11].transpose(1, 2, 0))
        (tmp_path / "batches.meta").write_bytes(pickle.dumps("another"))
        assert open_source(tmp_path).classes == tuple("012345")
        (tmp_path / "data_batch_3").unlink()
        with pytest.raises(FileNotFoundError, match="data_batch_3"):
            open_source(tmp_path)
        with pytest.raises(FileNotFoundError, match="test_batches does not exist"):
            open_source(tmp_path / "test_batches")

    def test_cifar100(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (5, 3072), np.uint8)
        for name, rows in (("train", slice(3)), ("test", slice(3, 5))):
            part = {b"data": pixels[rows], b"fine_labels": [7, 99, 3, 1, 2][rows]}
            coarse = {b"coarse_labels": [0, 1, 2, 0, 1][rows]}
            self.publish(tmp_path / name, part | coarse)
        words = [b"class %d" % i for i in range(100)]
        self.publish(tmp_path / "meta", {b"fine_label_names": words})
        source = open_source(tmp_path)
        assert list(source.labels) == [7, 99, 3] and source.classes[99] == "class 99"
        assert len(open_source(tmp_path / "test")) == 2

    @pytest.mark.parametrize("name", ["data_batch_1", "another"])
    def test_other_files_are_refused_and_not_run(self, tmp_path, name):
        made = tmp_path / "made"
        hostile = pickle.dumps(Hostile(made))
        for file in {"data_batch_1", name, "batches.meta"}:
            (tmp_path / file).write_bytes(hostile)
        with pytest.raises(
            UsageError, match=f"--data must be the pub.*{name} with the"
        ):
            open_source(tmp_path / name)
        assert not made.exists()
        pickle.loads(hostile)
        assert made.exists()
