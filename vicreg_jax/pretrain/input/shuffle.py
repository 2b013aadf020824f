"""Grain's shuffle, for many rows at once.

Grain's `MapDataset.shuffle` has random access, which resuming needs, but it shuffles
row by row in Python: 0.6 ms for 64 rows, during which the devices wait. Grain has no
batched form. This module computes the same permutation with NumPy, except at the few
sizes at which Grain's has too few bits and shows one image twice.

A block cipher permutes the numbers of `2 * half` bits. A number that is too large is
enciphered again until it is small enough ("cycle walking": Black and Rogaway 2002). The
cipher is Simon with four rounds (Beaulieu et al. 2013, https://eprint.iacr.org/2013/404,
section 3), with round keys from C++'s `std::seed_seq`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt64

_ROUNDS = 4
_LEAST_BITS = 16  # Grain's, since smaller blocks are shuffled visibly badly
_SMALL = 2**16  # images
_WORD = 2**32


def stream_seed(seed: int) -> int:
    """Returns what ``MapDataset.range(n).seed(seed).shuffle()`` is seeded with."""
    # 1: the shuffle is one transformation after `seed`.
    return int(np.random.SeedSequence((seed, 1)).generate_state(1, np.uint32)[0])


def shuffled(
    places: Int64[np.ndarray, " rows"], count: int, seed: int
) -> Int64[np.ndarray, " rows"]:
    """Returns the images at some places of a shuffled epoch.

    Args:
        places: Positions in the epoch, 0 to ``count - 1``, shape ``(rows,)``.
        count: Number of images.
        seed: Seed of the epoch, 0 to ``2**32 - 1``.
    """
    if count <= _SMALL:
        return _epoch(count, seed)[places]
    images = _encipher(places.astype(np.uint64), seed, count)
    outside = np.flatnonzero(images >= count)
    while outside.size:
        images[outside] = _encipher(images[outside], seed, count)
        outside = outside[images[outside] >= count]
    return images.astype(np.int64)


# A block has at least 16 bits, so that with few images a walk takes thousands of steps.
# A table of one step for each block, looked up in itself, has two steps, then four.
@lru_cache(maxsize=2)  # this epoch and the next, which is read ahead
def _epoch(count: int, seed: int) -> Int64[np.ndarray, " images"]:
    once = _encipher(np.arange(_SMALL, dtype=np.uint64), seed, count).astype(np.int64)
    inside = np.where(np.arange(_SMALL) < count, np.arange(_SMALL), once)
    while (images := inside[once[:count]]).max() >= count:
        inside = inside[inside]
    return images


def _encipher(
    blocks: UInt64[np.ndarray, " rows"], seed: int, count: int
) -> UInt64[np.ndarray, " rows"]:
    """Returns the blocks enciphered, in an even number of bits for `count` images."""
    # The bits of the last number. Grain takes one bit less if that is a power of two:
    # of 65,537 images it shows one twice an epoch, and the last one never.
    bits = (count - 1).bit_length()
    half = max(bits + bits % 2, _LEAST_BITS) // 2
    mask = np.uint64(2**half - 1)

    def rotated(word, by):
        return (word << np.uint64(by) | word >> np.uint64(half - by)) & mask

    left, right = blocks >> np.uint64(half) & mask, blocks & mask
    for key in _seed_words(seed, _ROUNDS):
        mixed = rotated(right, 1) & rotated(right, 8) ^ rotated(right, 2)
        left, right = right, left ^ mixed ^ (np.uint64(key) & mask)
    return left << np.uint64(half) | right


def _seed_words(seed: int, count: int) -> list[int]:
    """Returns `count` words of ``std::seed_seq{seed}``, as the C++ standard defines it.

    See [rand.util.seedseq], here for one seed and 4 to 6 words of 32 bits. NumPy has no
    such generator.
    """
    words = [0x8B8B8B8B] * count
    for k in range(2 * count):
        here, near, far = k % count, (k + 1) % count, (k + 2) % count
        values = words[here], words[near], words[k - 1 if k <= count else here - 1]
        if k < count:
            x = values[0] ^ values[1] ^ values[2]
            first = 1664525 * (x ^ x >> 27) % _WORD
            second = (first + (1, 1 + seed)[k] if k < 2 else first + here) % _WORD
            words[near] = (words[near] + first) % _WORD
            words[far] = (words[far] + second) % _WORD
        else:
            x = sum(values) % _WORD
            first = 1566083941 * (x ^ x >> 27) % _WORD
            second = (first - here) % _WORD
            words[near] ^= first
            words[far] ^= second
        words[here] = second
    return words
