"""Batches: shards, damaged images, seeking, and transfer to the devices."""

import gc
import itertools
import time
from pathlib import Path

import grain
import jax
import numpy as np
import pytest
from grain.experimental import assert_equal_output_after_checkpoint
from grain.multiprocessing import SharedMemoryArray
from jax.sharding import NamedSharding, PartitionSpec
from photographs import numbered, write_photographs
from processes import wait_for

from vicreg_jax.pretrain.input import (
    Subset,
    UnreadableError,
    batches,
    folder,
    to_device,
)
from vicreg_jax.pretrain.input.order import Order
from vicreg_jax.pretrain.input.read_step import Load


@pytest.fixture
def photographs(tmp_path):
    """See `write_photographs`."""
    return write_photographs(tmp_path)


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


class OneByOne:
    """Images in memory, read one by one as if they were not."""

    def __init__(self, source):
        self.source, self.shape = source, source.shape

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.source[index]

    def name(self, index):
        return self.source.name(index)


class TestBatches:
    @pytest.mark.usefixtures("unchecked_signatures")
    def test_images_in_memory_come_as_if_read_one_by_one(self):
        chosen = np.random.default_rng(0).permutation(30)[:19]
        source = Subset(Subset(numbered(40), np.arange(5, 40)), chosen)
        options = dict(batch=8, epochs=1, drop_remainder=False, seed=3)
        at_once = first_batches(9, source, **options)
        assert_batches_equal(at_once, first_batches(9, OneByOne(source), **options))
        assert len(at_once) == 3 and not at_once[-1].images[3:].any()
        before = source.source.source.images.copy()
        at_once[0].images[:] = 7
        np.testing.assert_array_equal(source.source.source.images, before)

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
        assert_equal_output_after_checkpoint(_Seeking(batches(source, **options)))

    @pytest.mark.parametrize("read", [0, 2, 6])
    def test_closed_it_goes_on_where_it_stopped(self, read):
        options = dict(batch=8, epochs=2, seed=1)
        whole = [batch.ids for batch in batches(numbered(30), **options)]
        reading = batches(numbered(30), **options)
        first = [next(reading).ids for _ in range(read)]
        reading.close()
        np.testing.assert_array_equal(first + [b.ids for b in reading], whole)

    @pytest.mark.slow
    def test_worker_processes_and_threads_change_nothing(self, photographs):
        (photographs / "china" / "2.png").write_bytes(b"damaged")
        source = folder(photographs, size=8)
        expected = batches(source, batch=4, threads=1)
        plain = list(itertools.islice(expected, 7))
        working = batches(source, batch=4, workers=2)
        assert_batches_equal(itertools.islice(working, 7), plain)
        assert working.unreadable == expected.unreadable == {source.name(2)}
        # In the middle of an epoch, with another number of workers.
        working.seek(5)
        assert_batches_equal([next(working)], plain[5:6])
        working.close()
        fatal = batches(source, batch=4, workers=1, unreadable="fatal")
        with pytest.raises(Exception, match="cannot read .*2.png"):
            list(itertools.islice(fatal, 3))
        fatal.close()

    def test_a_batch_that_fails_leaves_no_shared_memory(self, photographs, monkeypatch):
        (photographs / "china" / "2.png").write_bytes(b"damaged")
        allocated = []

        class Recorded(SharedMemoryArray):
            def __new__(cls, *arguments):
                array = super().__new__(cls, *arguments)
                allocated.append(array.metadata.name)
                return array

        monkeypatch.setattr(
            "vicreg_jax.pretrain.input.read_step.SharedMemoryArray", Recorded
        )
        source = folder(photographs, size=8)
        order = Order(len(source), batch=len(source), seed=0)
        load = Load(source, order, (), threads=2, replace=True, fatal=True, shared=True)
        with pytest.raises(UnreadableError, match="2.png"):
            load(0)
        assert len(allocated) == 1
        shared = Path("/dev/shm", allocated[0])

        def freed():
            gc.collect()
            return not shared.exists()

        # Another thread may still read a row, and Grain may free memory in a thread.
        wait_for(freed)

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
        with pytest.raises(
            ValueError, match="100 consecutive unreadable .*: cannot read"
        ):
            next(batches(source, batch=1))

    def test_seeks_in_every_shard(self):
        reading = batches(numbered(30), batch=8, seed=1)
        next(reading)
        sharded = batches(numbered(30), batch=8, seed=1, shard=shard(1, 2))
        sharded.seek(1)
        np.testing.assert_array_equal(next(sharded).ids, next(reading).ids[4:])
        reading.seek(1)
        sharded.seek(1)
        np.testing.assert_array_equal(next(sharded).ids, next(reading).ids[4:])

    @pytest.mark.usefixtures("unchecked_signatures")
    @pytest.mark.parametrize(
        "change, message",
        [
            (dict(workers=-1), "`workers` must be at least 0, got -1"),
            (dict(threads=0), "`threads` must be at least 1, got 0"),
            (dict(unreadable="hide"), "`unreadable` must be 'skip' or 'fatal', got 'h"),
        ],
    )
    def test_refuses(self, change, message):
        with pytest.raises(ValueError, match=message):
            batches(numbered(30), batch=4, **change)


class TestToDevice:
    def sharding(self):
        mesh = jax.make_mesh((8,), ("data",))
        return NamedSharding(mesh, PartitionSpec("data"))

    def test_rows_lie_on_their_devices(self):
        sharding = self.sharding()
        expected_batches = batches(numbered(30), batch=16, epochs=2)
        for batch, expected in zip(
            to_device(batches(numbered(30), batch=16, epochs=2), sharding),
            expected_batches,
            strict=True,
        ):
            assert batch.images.sharding == sharding
            assert {s.data.shape for s in batch.images.addressable_shards} == {
                (2, 2, 3, 1)
            }
            assert isinstance(batch.ids, np.ndarray)
            assert_batches_equal([map(np.asarray, batch)], [expected])

    def test_can_be_taken_up_anywhere(self):
        ahead = to_device(batches(numbered(30), batch=8, epochs=2), self.sharding())
        assert_equal_output_after_checkpoint(_Seeking(ahead))

    def test_is_the_one_train_iterator(self, photographs):
        (photographs / "china" / "3.jpg").write_bytes(b"damaged")
        reading = batches(folder(photographs, size=8), batch=8)
        ahead = to_device(reading, self.sharding())
        list(itertools.islice(ahead, 3))
        assert ahead.order is reading.order
        assert ahead.unreadable == reading.unreadable != set()
        ahead.close()

    def test_waiting_is_counted(self):
        ahead = to_device(batches(numbered(30), batch=8), self.sharding())
        started = time.monotonic()
        next(ahead)
        assert 0 < ahead.waited <= time.monotonic() - started


class _Seeking:
    """Batches in host memory whose state, as Grain asks for it, is the step."""

    def __init__(self, reading):
        self.reading, self.step = reading, 0

    def get_state(self):
        return self.step

    def set_state(self, step):
        self.reading.seek(step)
        self.step = step

    def __iter__(self):
        return self

    def __next__(self):
        batch = next(self.reading)
        self.step += 1
        return tuple(np.asarray(array) for array in batch)
