"""The order of images: a function of seed and step, whatever the shards."""

import grain
import numpy as np
import pytest
from grids import thinned

from vicreg_jax.pretrain.input import Order, order_hash


def by_loop(order, step):
    """Returns the ids of a step, shuffled by Grain row by row."""
    ids = grain.MapDataset.range(order.images).seed(order.seed).shuffle()
    epoch, place = divmod(step, order.steps_per_epoch)
    places = [place * order.batch + row for row in order.rows]
    return [ids[epoch * order.images + p] if p < order.images else -1 for p in places]


class TestOrder:
    # Block ciphers of 16 bits, most of whose numbers are skipped, and of 18 to 32.
    @pytest.mark.parametrize(
        "images", [1, 2, 3, 64, 103, 2**16, 2**16 + 2, 2**18 + 2, 1281167, 2**31 + 5]
    )
    @pytest.mark.parametrize("seed", [0, 5, 2**32 - 1])
    def test_is_the_shuffle_of_grain(self, images, seed):
        batch = min(images, 24)
        order = Order(images=images, batch=batch, seed=seed, drop_remainder=False)
        last = order.steps_per_epoch - 1
        for step in (0, 1, last, last + 1, 3 * last):
            np.testing.assert_array_equal(order[step], by_loop(order, step))

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

    @pytest.mark.parametrize("images", [2**15 + 1, 2**16 + 1, 2**18 + 1])
    def test_a_size_at_which_the_shuffle_of_grain_repeats_an_image(self, images):
        order = Order(images=images, batch=images, seed=0)
        np.testing.assert_array_equal(np.sort(order[0]), np.arange(images))

    def test_padding(self):
        order = Order(images=103, batch=10, seed=0, drop_remainder=False, epochs=2)
        assert len(order) == 22 and len(Order(images=103, batch=10)) > 10**12
        ids = np.concatenate([order[step] for step in range(11)])
        assert sorted(ids) == [-1] * 7 + list(range(103))
        np.testing.assert_array_equal(order[10][3:], [-1] * 7)

    def test_seeds_and_epochs_do_not_repeat_one_another(self):
        firsts = {
            tuple(Order(images=60, batch=12, seed=seed)[5 * epoch])
            for seed in range(10)
            for epoch in range(10)
        }
        assert len(firsts) == 100

    @pytest.mark.parametrize("epochs", thinned([800, 3200], keep=[800]))
    def test_first_images_are_uniform(self, epochs):
        order = Order(images=64, batch=64, shard=(0, 64))
        firsts = [order[epoch][0] for epoch in range(epochs)]
        counts, expected = np.bincount(firsts, minlength=64), epochs / 64
        # Chi squared with 63 degrees of freedom exceeds 135 three times in ten million.
        assert ((counts - expected) ** 2 / expected).sum() < 135

    def test_hash_tells_orders_apart(self):
        ids = np.arange(64)
        assert order_hash(ids) == order_hash(ids.copy()) < 2**64
        changed = ids.copy()
        changed[[3, 9]] = changed[[9, 3]]
        hashes = {order_hash(x) for x in (ids, changed, ids[::-1], ids + 1, ids[:-1])}
        assert len(hashes) == 5

    @pytest.mark.parametrize(
        "change, message",
        [
            (dict(batch=0), "`batch` must be at least 1, got 0"),
            (
                dict(batch=11),
                "--batch must be at most the number of .* train on, 10, got 11",
            ),
            (dict(seed=-1), "--seed must be from 0 to .*, got -1"),
            (dict(epochs=0), "`epochs` must be at least 1 or None, got 0"),
            (dict(shard=(2, 2)), "`shard` must be one of 2, got 2"),
            (dict(shard=(0, 3)), "`batch` must be a multiple of the 3 shards, got 4"),
        ],
    )
    def test_refuses(self, change, message):
        with pytest.raises(ValueError, match=message):
            Order(**dict(images=10, batch=4) | change)
