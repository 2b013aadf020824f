"""Arrays and PRNG keys by name, as they lie in storage and in memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Leaf = jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct
Stored = jax.Array | np.ndarray
_NARROW = ("int2", "uint2", "int4", "uint4")


def named(argument: str, tree: Any) -> dict[str, Leaf]:
    """Returns the leaves by their paths in the tree, or says why it cannot be kept.

    Args:
        argument: What the tree is called in an error.
        tree: The pytree.
    """
    leaves = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "array"
        if name in leaves:
            raise ValueError(
                f"`{argument}` must give every leaf a path of its own, got {name} twice"
            )
        leaves[name] = _checked(f"`{argument}` at {name}", leaf)
    if not leaves:
        raise ValueError(f"`{argument}` must hold an array, got {tree!r}")
    return leaves


def _checked(what: str, leaf: Any) -> Leaf:
    if not isinstance(leaf, Leaf):
        raise TypeError(
            f"{what} must be a JAX or NumPy array, got {type(leaf).__name__}: "
            "what is no array belongs in `extra`"
        )
    number = jnp.issubdtype(leaf.dtype, jnp.integer) or jnp.issubdtype(
        leaf.dtype, jnp.floating
    )
    number = number and leaf.dtype.name not in _NARROW
    if not (number or leaf.dtype == jnp.bool_ or is_key(leaf)):
        raise TypeError(
            f"{what} must hold PRNG keys, booleans, or integers or floating point "
            f"numbers of 8 to 64 bits, got {leaf.dtype}"
        )
    if not leaf.size:
        raise ValueError(f"{what} must not be empty, got shape {leaf.shape}")
    return leaf


def is_key(leaf: Leaf) -> bool:
    """Whether the leaf is an array of typed PRNG keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def stored(leaf: Leaf) -> Stored:
    """Returns what goes into storage: of keys, their bits."""
    if isinstance(leaf, jax.Array):
        return jax.random.key_data(leaf) if is_key(leaf) else leaf
    return np.asarray(leaf)


def target(name: str, like: Leaf) -> jax.ShapeDtypeStruct | np.ndarray:
    """Returns where storage shall be read to: what `stored` would give of `like`."""
    if isinstance(like, (np.ndarray, np.generic)):
        return np.asarray(like)
    sharding = like.sharding
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    try:
        sharding.shard_shape(like.shape)
    except ValueError as error:
        raise ValueError(
            f"`like` at {name} must have a sharding that fits its shape: {error}"
        ) from error
    struct = jax.ShapeDtypeStruct(like.shape, like.dtype)
    if is_key(like):
        struct = jax.eval_shape(jax.random.key_data, struct)
    return jax.ShapeDtypeStruct(struct.shape, struct.dtype, sharding=sharding)


def loaded(like: Leaf, array: Stored) -> Stored:
    """Returns the leaf that storage gave as `array`."""
    if not is_key(like):
        return array
    return jax.random.wrap_key_data(jnp.asarray(array), impl=_algorithm(like))


def _algorithm(like: Leaf) -> str:
    """The name of a key's algorithm, which JAX tells of arrays but not of structs."""
    found = []
    jax.eval_shape(
        lambda key: found.append(jax.random.key_impl(key)),
        jax.ShapeDtypeStruct(like.shape, like.dtype),
    )
    return found[0]
