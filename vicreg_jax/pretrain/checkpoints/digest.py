"""One checksum of an array's bits, the same however the array is sharded.

The array is read as words w_i of at most 32 bits, i counting them in row-major order
over the whole array, and its digest is the pair, for two seeds s, of

    sum_i mix(w_i + mix(i + s))   modulo 2^32

where `mix` is a bijection of the 32-bit words. So for a fixed i, different words add
different numbers, and this is certain, not likely: whatever happens to one word, one
flipped bit or all of them, changes both sums. Changes of several words (a swap, a
block of zeros) could cancel in both sums by chance only, once in 2^64.

Addition modulo 2^32 has no order and no rounding: every device adds its own words and
one exchange of two numbers an array adds those up. From 2^32 words on positions repeat.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}
_SEEDS = (0x243F6A88, 0xB7E15162)  # the first bits of pi and of e


def digests(arrays: Mapping[str, jax.Array | np.ndarray]) -> dict[str, str]:
    """Returns the digest of each array, 16 hexadecimal digits.

    Args:
        arrays: By name; jax arrays on any devices of any processes. Every process must
            call this with the same names in the same order.
    """
    sums = jax.device_get([_sums(array) for array in arrays.values()])
    return {
        name: f"{int(first):08x}{int(second):08x}"
        for name, (first, second) in zip(arrays, sums, strict=True)
    }


def _sums(array: jax.Array | np.ndarray) -> tuple[jax.Array, jax.Array]:
    if isinstance(array, jax.Array):
        return _word_sums(array)
    # jit would narrow what is 64 bits wide, unless told otherwise: it shall see words.
    words = np.ascontiguousarray(array).reshape(array.shape)
    wide = words.dtype.itemsize == 8
    words = words[..., None] if wide else words
    return _word_sums(words.view(_WORDS[array.dtype.itemsize]))


@jax.jit
def _word_sums(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    words = _words(x).astype(jnp.uint32)
    place = jnp.zeros((), jnp.uint32)
    stride = 1
    # Not by reshaping one range: that would gather an array that is sharded.
    for axis in reversed(range(words.ndim)):
        along = lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        place = place + along * np.uint32(stride % 2**32)
        stride *= words.shape[axis]
    first, second = (
        jnp.sum(_mix(words + _mix(place + np.uint32(seed))), dtype=jnp.uint32)
        for seed in _SEEDS
    )
    return first, second


def _words(x: jax.Array) -> jax.Array:
    """The bits of `x`; what is 64 bits wide becomes two words on a last axis."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint8)
    return lax.bitcast_convert_type(x, _WORDS[x.dtype.itemsize])


def _mix(word: jax.Array) -> jax.Array:
    """A bijection in which every bit of the word moves about half of the result's.

    Each line is one: a shift to the right, xored, can be undone from the highest bit
    down, and an odd factor has an inverse modulo 2^32.
    """
    word = word ^ (word >> np.uint32(16))
    word = word * np.uint32(0x85EBCA6B)
    word = word ^ (word >> np.uint32(13))
    word = word * np.uint32(0xC2B2AE35)
    return word ^ (word >> np.uint32(16))
