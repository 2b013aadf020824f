"""The input: decoding, the order of images, shards, damage, and taking it up again."""

import itertools
import json
import pickle
import time

import grain
import jax
import numpy as np
import PIL.Image
import pytest
from grain.experimental import assert_equal_output_after_checkpoint
from jax.sharding import NamedSharding, PartitionSpec
from sklearn.datasets import load_sample_images

from vicreg_jax.pretrain.input import (
    Arrays,
    Order,
    Records,
    UnreadableError,
    _example,
    batches,
    folder,
    open_source,
    order_hash,
    pack,
    split,
    to_device,
)
from vicreg_jax.pretrain.input.decode import decode

CHINA, FLOWER = load_sample_images().images


@pytest.fixture
def photographs(tmp_path):
    """Twelve parts of two photographs in folders by class, as JPEG and PNG."""
    for name, pixels in (("china", CHINA), ("flower", FLOWER)):
        (tmp_path / name / "deep").mkdir(parents=True)
        for i in range(6):
            part = PIL.Image.fromarray(pixels[20 * i : 20 * i + 90, : 120 + i])
            below = "deep/" if i == 5 else ""
            part.save(tmp_path / name / f"{below}{i}.{'jpg' if i % 2 else 'png'}")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def numbered(images):
    """Returns images whose every pixel is their number, and their number as label."""
    numbers = np.arange(images, dtype=np.int32)
    pixels = np.broadcast_to(numbers[:, None, None, None], (images, 2, 3, 1))
    return Arrays(pixels.astype(np.uint8), numbers)


def shard(index, count):
    return grain.sharding.ShardOptions(shard_index=index, shard_count=count)


def first_batches(steps, source, **options):
    reading = batches(source, **options)
    out = list(itertools.islice(reading, steps))
    reading.close()
    return out


def assert_batches_equal(left, right):
    for a, b in zip(left, right, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
            assert x.dtype == y.dtype


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
        for content, said in ((pickle.dumps(print), "not .*print"), (b"\x80", "")):
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


class TestOrder:
    @pytest.mark.parametrize("drop_remainder", [True, False])
    @pytest.mark.parametrize("count", [1, 2, 4, 8])
    def test_shards_hold_the_rows_of_one_batch(self, count, drop_remainder):
        options = dict(images=103, batch=16, seed=5, drop_remainder=drop_remainder)
        whole = Order(**options)
        parts = [Order(**options, shard=(i, count)) for i in range(count)]
        for step in range(3 * whole.steps_per_epoch):
            rows = [part[step] for part in parts]
            np.testing.assert_array_equal(np.concatenate(rows), whole[step])
            hashes = [
                order_hash(ids, first_row=part.rows.start)
                for part, ids in zip(parts, rows, strict=True)
            ]
            assert sum(hashes) % 2**64 == order_hash(whole[step])

    def test_an_epoch_shows_each_image_once(self):
        order = Order(images=103, batch=10, seed=0)
        epochs = [
            np.concatenate([order[10 * e + s] for s in range(10)]) for e in (0, 1)
        ]
        for ids in epochs:
            assert len(set(ids)) == 100 and set(ids) <= set(range(103))
        assert np.any(epochs[0] != epochs[1])

    def test_padding(self):
        order = Order(images=103, batch=10, seed=0, drop_remainder=False, epochs=2)
        assert len(order) == 22 and len(Order(images=103, batch=10)) > 10**12
        ids = np.concatenate([order[step] for step in range(11)])
        assert sorted(ids) == [-1] * 7 + list(range(103))
        np.testing.assert_array_equal(order[10][3:], [-1] * 7)

    def test_seeds_and_epochs_do_not_repeat_one_another(self):
        firsts = {
            tuple(Order(images=60, batch=60, seed=seed)[epoch])
            for seed in range(10)
            for epoch in range(10)
        }
        assert len(firsts) == 100

    def test_first_images_are_uniform(self):
        order = Order(images=64, batch=64, shard=(0, 64))
        counts = np.bincount([order[epoch][0] for epoch in range(3200)], minlength=64)
        # Chi squared with 63 degrees of freedom exceeds 135 three times in ten million.
        assert ((counts - 50) ** 2 / 50).sum() < 135

    def test_hash_tells_orders_apart(self):
        ids = np.arange(64)
        assert order_hash(ids) == order_hash(ids.copy()) < 2**64
        changed = ids.copy()
        changed[[3, 9]] = changed[[9, 3]]
        hashes = {order_hash(x) for x in (ids, changed, ids[::-1], ids + 1, ids[:-1])}
        assert len(hashes) == 5

    @pytest.mark.parametrize(
        "change, said",
        [
            (dict(batch=0), "`batch` must be at least 1, got 0"),
            (dict(batch=11), "`batch` must be at most the number of images, 10"),
            (dict(seed=-1), "`seed` must be from 0 to .*, got -1"),
            (dict(epochs=0), "`epochs` must be at least 1 or None, got 0"),
            (dict(shard=(2, 2)), "`shard` must be one of 2, got 2"),
            (dict(shard=(0, 3)), "`batch` must be a multiple of the 3 shards, got 4"),
        ],
    )
    def test_refuses(self, change, said):
        with pytest.raises(ValueError, match=said):
            Order(**dict(images=10, batch=4) | change)


class TestBatches:
    def test_hold_the_images_of_their_ids(self):
        for batch in first_batches(7, numbered(30), batch=8, seed=1):
            np.testing.assert_array_equal(batch.images[:, 0, 0, 0], batch.ids)
            np.testing.assert_array_equal(batch.labels, batch.ids)
            assert batch.where.all() and set(batch.aspect) == {1.5}
            dtypes = [array.dtype.name for array in batch]
            assert dtypes == ["uint8", "int64", "int32", "bool", "float32"]

    def test_padding_is_masked(self):
        options = dict(batch=8, epochs=1, drop_remainder=False, shuffle=False)
        last = first_batches(9, numbered(19), **options)[-1]
        np.testing.assert_array_equal(last.where, [True] * 3 + [False] * 5)
        np.testing.assert_array_equal(last.ids, [16, 17, 18] + [-1] * 5)
        np.testing.assert_array_equal(last.labels, last.ids)
        assert not last.images[3:].any()

    @pytest.mark.parametrize("drop_remainder", [True, False])
    def test_can_be_taken_up_anywhere(self, photographs, drop_remainder):
        source = folder(photographs, size=8)
        options = dict(batch=5, epochs=2, seed=3, drop_remainder=drop_remainder)
        assert_equal_output_after_checkpoint(batches(source, **options))

    @pytest.mark.slow
    def test_worker_processes_and_threads_change_nothing(self, photographs):
        (photographs / "china" / "2.png").write_bytes(b"damaged")
        source = folder(photographs, size=8)
        expected = batches(source, batch=4, threads=1)
        plain = list(itertools.islice(expected, 7))
        working = batches(source, batch=4, workers=2)
        assert_batches_equal(itertools.islice(working, 7), plain)
        assert working.unreadable == expected.unreadable == {source.name(2)}
        # Taken up by another number of workers in the middle of an epoch.
        working.set_state(batches(source, batch=4).get_state() | {"step": 5})
        assert_batches_equal([next(working)], plain[5:6])
        working.close()
        fatal = batches(source, batch=4, workers=1, unreadable="fatal")
        with pytest.raises(Exception, match="cannot read .*2.png"):
            list(itertools.islice(fatal, 3))
        fatal.close()

    @pytest.mark.parametrize("count", [2, 4, 8])
    def test_shards_make_one_batch_damaged_images_and_all(self, photographs, count):
        for name in ("china/3.jpg", "flower/0.png", "flower/1.jpg"):
            (photographs / name).write_bytes(b"damaged")
        source = folder(photographs, size=8)
        whole = first_batches(5, source, batch=8, seed=2)
        parts = [
            first_batches(5, source, batch=8, seed=2, shard=shard(i, count))
            for i in range(count)
        ]
        joined = [
            [np.concatenate(arrays) for arrays in zip(*rows, strict=True)]
            for rows in zip(*parts, strict=True)
        ]
        assert_batches_equal(joined, whole)

    def test_a_damaged_image_moves_no_other(self, photographs):
        source = folder(photographs, size=8)
        before = first_batches(6, source, batch=4)
        for name in ("china/3.jpg", "china/4.png"):
            (photographs / name).write_bytes(b"damaged")
        reading = batches(source, batch=4)
        after = list(itertools.islice(reading, 6))
        for old, new in zip(before, after, strict=True):
            # In order: china/3.jpg, china/4.png, china/deep/5.jpg.
            expected = np.where((old.ids == 3) | (old.ids == 4), 5, old.ids)
            np.testing.assert_array_equal(new.ids, expected)
            assert new.where.all()
        assert reading.unreadable == {source.name(3), source.name(4)}

    def test_a_damaged_image_is_not_judged(self, photographs):
        (photographs / "china" / "3.jpg").write_bytes(b"damaged")
        source = folder(photographs, size=8)
        options = dict(batch=12, shuffle=False, drop_remainder=False)
        reading = batches(source, **options)
        batch = next(reading)
        np.testing.assert_array_equal(batch.where, np.arange(12) != 3)
        assert batch.ids[3] == batch.labels[3] == -1 and not batch.images[3].any()
        assert reading.unreadable == {source.name(3)}
        with pytest.raises(UnreadableError, match="cannot read .*3.jpg: Unidentified"):
            next(batches(source, **options, unreadable="fatal"))

    def test_a_broken_disk_stops_the_run(self, photographs):
        source = folder(photographs, size=8)
        for i in range(len(source)):
            (photographs / source.paths[i]).unlink()
        with pytest.raises(ValueError, match="100 images in a row: cannot read"):
            next(batches(source, batch=1))

    def test_state_is_small_and_guarded(self):
        reading = batches(numbered(30), batch=8, seed=1)
        next(reading)
        state = json.loads(json.dumps(reading.get_state()))
        assert state["step"] == 1
        sharded = batches(numbered(30), batch=8, seed=1, shard=shard(1, 2))
        sharded.set_state(state)
        np.testing.assert_array_equal(next(sharded).ids, next(reading).ids[4:])
        with pytest.raises(ValueError, match="`state` must be of .*`seed` 2, got 1"):
            batches(numbered(30), batch=8, seed=2).set_state(state)
        with pytest.raises(
            ValueError, match="`state` must be of .*`images` 31, got 30"
        ):
            batches(numbered(31), batch=8, seed=1).set_state(state)

    @pytest.mark.usefixtures("unchecked_signatures")
    @pytest.mark.parametrize(
        "change, said",
        [
            (dict(workers=-1), "`workers` must be at least 0, got -1"),
            (dict(threads=0), "`threads` must be at least 1, got 0"),
            (dict(unreadable="hide"), "`unreadable` must be 'skip' or 'fatal', got 'h"),
        ],
    )
    def test_refuses(self, change, said):
        with pytest.raises(ValueError, match=said):
            batches(numbered(30), batch=4, **change)


class TestToDevice:
    def sharding(self):
        mesh = jax.make_mesh((8,), ("data",))
        return NamedSharding(mesh, PartitionSpec("data"))

    def test_rows_lie_on_their_devices(self):
        sharding = self.sharding()
        host = batches(numbered(30), batch=16, epochs=2)
        for batch, expected in zip(
            to_device(batches(numbered(30), batch=16, epochs=2), sharding),
            host,
            strict=True,
        ):
            assert batch.images.sharding == sharding
            assert {s.data.shape for s in batch.images.addressable_shards} == {
                (2, 2, 3, 1)
            }
            assert isinstance(batch.ids, np.ndarray)
            assert_batches_equal([map(np.asarray, batch)], [expected])

    def test_state_is_that_of_its_user(self):
        ahead = to_device(batches(numbered(30), batch=8, epochs=2), self.sharding())
        assert_equal_output_after_checkpoint(_OnHost(ahead))

    def test_waiting_is_counted(self):
        ahead = to_device(batches(numbered(30), batch=8), self.sharding())
        started = time.monotonic()
        next(ahead)
        assert 0 < ahead.waited <= time.monotonic() - started


class _OnHost:
    """Batches brought back, for comparisons that know NumPy alone."""

    def __init__(self, ahead):
        self.ahead = ahead
        self.get_state, self.set_state = ahead.get_state, ahead.set_state

    def __iter__(self):
        return self

    def __next__(self):
        return tuple(np.asarray(array) for array in next(self.ahead))
