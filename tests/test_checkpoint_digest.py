"""A checksum that every bit changes and that no sharding changes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpointing import sharding
from jax.sharding import AxisType

from vicreg_jax.pretrain.digest import compile_for, digests


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool", "float64"])
def test_digest_changes_with_every_bit(dtype, x64):
    """Every bit of a small leaf, and every pair of its elements swapped."""
    x = np.random.default_rng(0).standard_normal(12).astype(jnp.dtype(dtype))
    x = x.reshape(3, 4)
    digest = lambda x: digests({"x": jnp.asarray(x)})["x"].sums  # noqa: E731
    seen = [digest(x)]
    bytewise = x.view(np.uint8).reshape(-1)
    for byte, bit in itertools.product(range(bytewise.size), range(8)):
        if dtype == "bool" and bit:
            continue  # such a byte is no boolean
        bytewise[byte] ^= 1 << bit
        seen.append(digest(x))
        bytewise[byte] ^= 1 << bit
    assert len(set(seen)) == len(seen)
    for i, j in itertools.combinations(range(x.size), 2):
        swapped = x.reshape(-1).copy()
        swapped[[i, j]] = swapped[[j, i]]
        same = (swapped == x.reshape(-1)).all()
        assert (digest(swapped.reshape(x.shape)) == seen[0]) == same


def test_digest_is_the_same_however_sharded(x64):
    x = np.random.default_rng(0).standard_normal((8, 16))
    for dtype in ("float64", "float32", "bfloat16"):
        host = x.astype(jnp.dtype(dtype))
        seen = {digests({"x": jnp.asarray(host)})["x"]}
        for spec, kind in itertools.product(
            [(), ("data",), (None, "data")], [AxisType.Auto, AxisType.Explicit]
        ):
            put = jax.device_put(host, sharding(8, *spec, kind=kind))
            seen.add(digests({"x": put})["x"])
        assert len(seen) == 1
    # Computed by hand for one word: the formula is part of the format.
    assert digests({"x": jnp.zeros(1, jnp.uint32)}) == {"x": (by_hand(0), True)}


def test_says_which_arrays_are_finite(x64):
    for dtype in ("float64", "float32", "bfloat16", "float8_e4m3fn"):
        whole = jax.device_put(jnp.ones((8, 3), dtype), sharding(8, "data"))
        one = jnp.zeros(3, dtype)  # on another set of devices
        arrays = {"nan": whole.at[7, 2].set(jnp.nan), "whole": whole, "one": one}
        if dtype != "float8_e4m3fn":  # it has no infinity
            arrays["inf"] = whole.at[0, 1].set(-jnp.inf)
        found = {name: digest.finite for name, digest in digests(arrays).items()}
        assert found == {name: name in ("whole", "one") for name in arrays}
    assert digests({"x": jnp.arange(3), "y": jnp.ones(2, bool)})["x"].finite


def test_compiles_in_advance():
    """One program for all shapes, of which nothing is left to compile later."""
    compiled = []

    def listen(event, _, **__):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    state = {"x": jnp.zeros((3, 5)), "y": jnp.ones(7, jnp.int32), "z": jnp.zeros(2)}
    jax.monitoring.register_event_duration_secs_listener(listen)
    compile_for(state)
    assert len(compiled) == 1
    digests(state)
    assert len(compiled) == 1


def by_hand(word):
    def mix(w):
        w = (w ^ w >> 16) * 0x85EBCA6B % 2**32
        w = (w ^ w >> 13) * 0xC2B2AE35 % 2**32
        return w ^ w >> 16

    seeds = (0x243F6A88, 0xB7E15162)
    return "".join(f"{mix((word + mix(seed)) % 2**32):08x}" for seed in seeds)
