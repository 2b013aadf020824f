"""The random keys of initial parameters, in half the time while JAX traces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax

if TYPE_CHECKING:
    from flax import nnx
    from jaxtyping import PRNGKeyArray


def keys(rngs: nnx.Rngs) -> Any:
    """Returns what layers of Flax that have parameters alone take for `rngs`.

    Every key is the one that ``rngs.params()`` would return, and both count on. But
    `flax.nnx.Rngs` sets its count by an index, and Flax 0.12 then asks for the count's
    sharding. A traced count has none, and JAX 0.10 writes an error that tells where the
    count comes from. That took more than half of the time of building a ResNet-50 under
    `jax.eval_shape`.
    """
    return _Keys(rngs)


class _Keys:
    def __init__(self, rngs):
        self._stream = rngs.params

    def params(self) -> PRNGKeyArray:
        key, count = self._stream.key[...], self._stream.count
        drawn = jax.random.fold_in(key, count[...])
        count.set_value(count[...] + 1)
        return drawn
