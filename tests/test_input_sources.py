"""Decoding, and images by name and by path."""

import pickle

import numpy as np
import PIL.Image
import pytest
from photographs import CHINA, FLOWER, numbered, write_photographs

from vicreg_jax.pretrain.input import (
    Records,
    UnreadableError,
    _example,
    folder,
    open_source,
    pack,
    split,
)
from vicreg_jax.pretrain.input.decode import decode


@pytest.fixture
def photographs(tmp_path):
    """See `write_photographs`."""
    return write_photographs(tmp_path)


class TestDecode:
    @pytest.mark.parametrize("channels, mode", [(3, "RGB"), (1, "L")])
    def test_is_the_bicubic_of_pil(self, tmp_path, channels, mode):
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

    def test_says_what_is_wrong(self, tmp_path):
        with pytest.raises(UnreadableError, match="FileNotFoundError: .*absent.png"):
            decode(tmp_path / "absent.png", size=8, channels=3)
        with pytest.raises(UnreadableError, match="UnidentifiedImageError"):
            decode(b"no image", size=8, channels=3)
        PIL.Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "floats.tif")
        with pytest.raises(UnreadableError, match="no known brightest value"):
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
        nested = folder(photographs, size=16, labelled=False)
        assert nested.classes == () and set(nested.labels) == {-1} and len(nested) == 12
        flat = folder(photographs / "china", size=16)
        assert flat.classes == () and set(flat.labels) == {-1} and len(flat) == 6

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
        travelled = pickle.loads(pickle.dumps(records))
        np.testing.assert_array_equal(travelled[3].image, files[3].image)
        assert "record 3 of" in records.name(3)

    def test_example_messages(self):
        features = {"image": b"\x00\xff" * 300, "label": 7, "offset": -3}
        message = _example.build(features)
        assert _example.parse(message) == features
        for damaged in (message[:-1], b"\xff", b"\x08\x01", b"no message at all"):
            with pytest.raises(ValueError, match="no tf.train.Example"):
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
        train, judged = split(source, 0.2, seed=0)
        assert len(train) + len(judged) == count
        shares = np.bincount(judged.labels) / np.bincount(source.labels)
        np.testing.assert_allclose(shares, 0.2, atol=0.01)

    def test_split_is_stratified(self, photographs):
        train, judged = split(folder(photographs, size=8), held_out=0.5, seed=1)
        for part in (train, judged):
            np.testing.assert_array_equal(np.bincount(part.labels), [3, 3])
            assert part.classes == ("china", "flower")
        names = {part.name(i) for part in (train, judged) for i in range(6)}
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
        grey = open_source(tmp_path / "set.npz")
        assert grey.shape == (4, 4, 1) and grey.classes == ("0", "1")
        np.savez(tmp_path / "bad.npz", images=images / 255)
        with pytest.raises(ValueError, match=r"uint8 `images`.* got float64 \(5, 4, 4"):
            open_source(tmp_path / "bad.npz")
        np.savez(tmp_path / "bad.npz", images=images, labels=np.arange(4))
        with pytest.raises(ValueError, match=r"each of the 5 images, got shape \(4,\)"):
            open_source(tmp_path / "bad.npz")

    def test_cifar10(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), np.uint8)
        names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
        for i, name in enumerate(names):
            part = pixels[2 * i : 2 * i + 2].reshape(2, -1)
            self.pickled(tmp_path / name, {b"data": part, b"labels": [i, i + 1]})
        self.pickled(tmp_path / "batches.meta", {b"label_names": [b"cat"]})
        source = open_source(tmp_path)
        assert len(source) == 10 and source[9].label == 5
        np.testing.assert_array_equal(source[4].image, pixels[4].transpose(1, 2, 0))
        others = open_source(tmp_path / "test_batch")
        assert list(others.labels) == [5, 6]
        np.testing.assert_array_equal(others[1].image, pixels[11].transpose(1, 2, 0))
        with pytest.raises(FileNotFoundError, match="got .*test_batches"):
            open_source(tmp_path / "test_batches")
        for content, said in (
            (pickle.dumps(print), "not .*print"),
            (b"\x80", ""),
            (b"no pickle at all", ""),
            (pickle.dumps({b"label_names": [b"cat"]}), "no images"),
            (pickle.dumps([1, 2]), ""),
        ):
            (tmp_path / "data_batch_1").write_bytes(content)
            with pytest.raises(
                ValueError, match=f"CIFAR's own files, got .*1: .*{said}"
            ):
                open_source(tmp_path)

    def test_cifar100(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (5, 3072), np.uint8)
        for name, rows in (("train", slice(3)), ("test", slice(3, 5))):
            part = {b"data": pixels[rows], b"fine_labels": [7, 99, 3, 1, 2][rows]}
            self.pickled(
                tmp_path / name, part | {b"coarse_labels": [0, 1, 2, 0, 1][rows]}
            )
        self.pickled(tmp_path / "meta", {b"fine_label_names": [b"apple"]})
        source = open_source(tmp_path)
        assert list(source.labels) == [7, 99, 3] and len(source.classes) == 100
        assert len(open_source(tmp_path / "test")) == 2

    @staticmethod
    def pickled(path, content):
        path.write_bytes(pickle.dumps(content, protocol=2))

    def test_refuses_what_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="`data` must be mnist.*got cats"):
            open_source("cats")
        with pytest.raises(FileNotFoundError, match="`root` must hold images"):
            open_source(tmp_path)
        with pytest.raises(FileNotFoundError, match="`root` must be a folder, got"):
            folder(tmp_path / "absent", size=8)
        (tmp_path / "a.png").write_bytes(b"")
        with pytest.raises(
            ValueError, match="label for every image, got none for 1 of"
        ):
            split(folder(tmp_path, size=8))
        with pytest.raises(ValueError, match="`held_out` must be above 0 .* got 1.0"):
            split(numbered(4), held_out=1.0)
