"""A checksum of each array's bits that does not depend on its sharding.

The array is read as words w_i of at most 32 bits, where i counts them in row-major
order. Its digest is a pair of sums, one for each of two seeds s:

    sum_i mix(w_i + mix(i + s))   modulo 2^32

`mix` is a bijection of the 32-bit words. So for a fixed i, different words always add
different numbers: any change to a single word, one flipped bit or all of them, changes
both sums. Changes of several words, such as a swap or a block of zeros, cancel in both
sums only by chance, with probability 2^-64.

Addition modulo 2^32 has no order and no rounding, so each device adds its own words and
one exchange of two numbers per array adds up the devices. After 2^32 words the index i
repeats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}
_SEEDS = (0x243F6A88, 0xB7E15162)  # first bits of pi and of e


class Digest(NamedTuple):
    """What is known of an array's values.

    Attributes:
        sums: Both sums as 16 hexadecimal digits.
        finite: Whether no value is infinite or NaN.
    """

    sums: str
    finite: bool


def digests(arrays: Mapping[str, jax.Array]) -> dict[str, Digest]:
    """Returns the digest of each array.

    Args:
        arrays: Arrays by name, on any devices of any processes, with elements of 8 to
            64 bits. All processes must pass the same names in the same order.
    """
    found = {}
    for names in _by_devices(arrays):
        results = jax.device_get(_digests([arrays[name] for name in names]))
        for name, (first, second, finite) in zip(names, results, strict=True):
            found[name] = Digest(f"{int(first):08x}{int(second):08x}", bool(finite))
    return found


def compile_for(arrays: Mapping[str, jax.Array]) -> None:
    """Compiles what `digests` runs for arrays like these."""
    for names in _by_devices(arrays):
        _digests.lower([arrays[name] for name in names]).compile()


def _by_devices(arrays: Mapping[str, jax.Array]) -> list[list[str]]:
    """Groups the names by devices, since one program runs on one set of them."""
    groups: dict[frozenset, list[str]] = {}
    for name, array in arrays.items():
        groups.setdefault(frozenset(array.sharding.device_set), []).append(name)
    return list(groups.values())


# One program for all arrays on the same devices. `compile_for` lets it compile beside
# the training step.
@jax.jit
def _digests(arrays: Sequence[jax.Array]) -> list[tuple[jax.Array, ...]]:
    return [_digest(array) for array in arrays]


@jax.jit
def _digest(x: jax.Array) -> tuple[jax.Array, ...]:
    words = _words(x).astype(jnp.uint32)
    place = jnp.zeros((), jnp.uint32)
    stride = 1
    # Reshaping one range would gather an array that is sharded.
    for axis in reversed(range(words.ndim)):
        along = lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        place = place + along * np.uint32(stride % 2**32)
        stride *= words.shape[axis]
    mixed = [_mix(words + _mix(place + np.uint32(seed))) for seed in _SEEDS]
    finite = jnp.isfinite(x).astype(jnp.uint32)
    finite = jnp.broadcast_to(
        finite.reshape(finite.shape + (1,) * (words.ndim - x.ndim)), words.shape
    )
    # One reduction of three results: as three, they take twice as long to compile.
    return lax.reduce(
        (*mixed, finite),
        (np.uint32(0), np.uint32(0), np.uint32(1)),
        lambda x, y: (x[0] + y[0], x[1] + y[1], x[2] & y[2]),
        tuple(range(words.ndim)),
    )


def _words(x: jax.Array) -> jax.Array:
    """Returns the bits of `x`. Elements of 64 bits become two words on a last axis."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint8)
    return lax.bitcast_convert_type(x, _WORDS[x.dtype.itemsize])


def _mix(word: jax.Array) -> jax.Array:
    """Applies a bijection in which each input bit changes about half of the output.

    Every line can be undone: a shift to the right, xored, from the highest bit down;
    a product with an odd factor by its inverse modulo 2^32. The constants are those of
    MurmurHash3's finalizer.
    """
    # As uint32, because JAX refuses Python's integers from 2^31 on.
    word = word ^ (word >> np.uint32(16))
    word = word * np.uint32(0x85EBCA6B)
    word = word ^ (word >> np.uint32(13))
    word = word * np.uint32(0xC2B2AE35)
    return word ^ (word >> np.uint32(16))
