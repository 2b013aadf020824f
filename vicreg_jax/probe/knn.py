"""Exact k-nearest neighbors by cosine similarity, in blocks, over any mesh."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jax.sharding import PartitionSpec as P

from vicreg_jax.probe import _inputs
from vicreg_jax.probe._inputs import wide

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from jaxtyping import Array, Bool, Float, Int32, Integer

    Matrix = Float[Array | np.ndarray, "_ width"]

NEIGHBORS = 20  # as the paper reports
TEMPERATURE = 0.07  # DINO's
_QUERIES = 1024  # of all devices at a time
_BANK = 8192  # rows of a device at a time


class Neighbors(NamedTuple):
    """The nearest rows of a bank, nearest first; equally near ones in their order.

    Attributes:
        similarities: Cosines, shape ``(queries, neighbors)``, float32 or float64.
        indices: Rows of the bank, shape ``(queries, neighbors)``, int32.
    """

    similarities: Float[Array, "queries neighbors"]
    indices: Int32[Array, "queries neighbors"]


def classify(
    bank: Matrix,
    labels: Integer[Array | np.ndarray, " bank"],
    queries: Matrix,
    *,
    neighbors: int = NEIGHBORS,
    temperature: float = TEMPERATURE,
    mesh: Mesh | None = None,
) -> Integer[Array, " queries"]:
    """Returns the label with the most weight among each query's neighbors.

    Each of the nearest rows has the weight ``exp(similarity / temperature)``, as in Wu
    et al. (arXiv:1805.01978), with the temperature of DINO (arXiv:2104.14294). VICReg
    (arXiv:2105.04906) reports 20 neighbors. Of labels with equal weight, the label of
    the nearest row wins.

    Args:
        bank: Features that vote, shape ``(bank, width)``; see `nearest`.
        labels: Labels of the rows of the bank, shape ``(bank,)``. Rows with -1 do not
            vote.
        queries: Features to classify, shape ``(queries, width)``.
        neighbors: Number of rows that vote on each query.
        temperature: Temperature of the weights.
        mesh: Devices to spread the rows over; see `nearest`.

    Raises:
        TypeError: As `nearest`, and if the labels are not integers.
        ValueError: As `nearest`, and if a label is below -1 or above the largest int32,
            or `temperature` is not positive.
    """
    _inputs.check("bank", bank, labels)
    if not temperature > 0:
        raise ValueError(f"`temperature` must be above 0, got {temperature}")
    voters = _inputs.int32_labels(labels)
    if voters.min() < _inputs.NO_LABEL:
        raise ValueError(
            "`labels` must be from 0, or -1 for rows that do not vote, "
            f"got {voters.min()}"
        )
    found = nearest(
        bank, queries, neighbors=neighbors, where=voters != _inputs.NO_LABEL, mesh=mesh
    )
    return _vote(found, jnp.asarray(voters), temperature)


@jax.jit
def _vote(found: Neighbors, labels, temperature):
    named = labels[found.indices]
    # Relative to the nearest, so that a low temperature does not overflow.
    gaps = found.similarities - found.similarities[:, :1]
    weights = jnp.exp(gaps / jnp.asarray(temperature, gaps.dtype))
    # Votes by neighbor and not by class, so that memory does not grow with the classes.
    # The first of the largest is the label of the nearest row.
    same = named[:, :, None] == named[:, None, :]
    votes = jnp.sum(jnp.where(same, weights[:, None, :], 0), axis=2)
    return jnp.take_along_axis(named, jnp.argmax(votes, axis=1)[:, None], axis=1)[:, 0]


def nearest(
    bank: Matrix,
    queries: Matrix,
    *,
    neighbors: int = NEIGHBORS,
    where: Bool[Array | np.ndarray, " bank"] | None = None,
    mesh: Mesh | None = None,
) -> Neighbors:
    """Returns the rows of a bank that are most similar to each query.

    Every device keeps its rows of the bank, which it compares to blocks of 1,024
    queries, 8,192 rows at a time. Blocks of similarities and the best rows so far are
    its only temporary memory: no matrix of queries by bank is formed. For each block,
    the devices exchange the queries and their best rows.

    Args:
        bank: Shape ``(bank, width)``, of any float dtype. Products have the wider of
            both dtypes and are added up in float32, or in float64 if one has it; so
            features in bfloat16 are compared exactly as they are.
        queries: Shape ``(queries, width)``, of any float dtype.
        neighbors: Number of rows to return for each query.
        where: Which rows of the bank to search, bool, shape ``(bank,)``. None: all.
        mesh: Devices to spread the rows of both over. None: those of `bank` if it is
            sharded, otherwise JAX's default device.

    Raises:
        TypeError: If the features are not floating-point, or `where` is not bool.
        ValueError: If a shape does not fit, that of `where` included, a value is not
            finite, or `neighbors` is not from 1 to the number of rows searched.
    """
    for name, features in (("bank", bank), ("queries", queries)):
        _inputs.check(name, features)
    if queries.shape[1] != bank.shape[1]:
        raise ValueError(
            f"`queries` must have the width of `bank`, {bank.shape[1]}, "
            f"got {queries.shape[1]}"
        )
    found = np.ones(len(bank), bool) if where is None else np.asarray(where)
    if found.dtype != bool:
        raise TypeError(f"`where` must be bool, got {found.dtype}")
    # Checked here, because the padding of both would hide it.
    if found.shape != bank.shape[:1]:
        raise ValueError(
            "`where` must have a value for each row of `bank`, shape "
            f"{bank.shape[:1]}, got {found.shape}"
        )
    if not 1 <= neighbors <= found.sum():
        raise ValueError(
            f"`neighbors` must be from 1 to the {found.sum()} rows of `bank` that are "
            f"searched, got {neighbors}"
        )
    mesh = _inputs.mesh_of(bank, mesh)
    count, devices = len(queries), mesh.size if mesh else 1
    # Each device compares the blocks of all, so their sum is limited. A block also has
    # at most what the queries fill, because they are padded to a multiple of it.
    block = max(1, min(_QUERIES // devices, -(-count // devices)))
    result = search(
        _inputs.pad_and_shard(bank, mesh, 1),
        _inputs.pad_and_shard(found, mesh, 1),
        _inputs.pad_and_shard(queries, mesh, block),
        neighbors=neighbors,
        block=block,
        mesh=mesh,
    )
    return Neighbors(*(array[:count] for array in result))


@partial(jax.jit, static_argnames=("neighbors", "block", "mesh"))
def search(
    bank: Float[Array, "bank width"],
    where: Bool[Array, " bank"],
    queries: Float[Array, "queries width"],
    *,
    neighbors: int,
    block: int,
    mesh: Mesh | None,
) -> Neighbors:
    """Returns the result of `nearest`, for arrays that are on the devices already.

    Args:
        bank: Shape ``(bank, width)``, with equally many rows on each device.
        where: Which rows to search, shape ``(bank,)``.
        queries: Shape ``(queries, width)``, a multiple of `block` on each device.
        neighbors: Number of rows to return for each query.
        block: Queries of each device to search at a time.
        mesh: Devices that the rows of all three are spread over. None: one device.
    """
    local = partial(_search, neighbors=neighbors, block=block)
    if mesh is None:
        return local(bank, where, queries, axes=())
    rows = P(mesh.axis_names)
    spread = partial(local, axes=mesh.axis_names)
    return jax.shard_map(spread, mesh=mesh, in_specs=rows, out_specs=rows)(
        bank, where, queries
    )


def _search(bank, where, queries, *, neighbors, block, axes) -> Neighbors:
    """Returns the neighbors of this device's queries in the rows of all devices."""
    # NaN marks rows that are not searched. Rows of zeros are searched, with scale 0.
    scales = jnp.where(where, _inverse_norms(bank), jnp.nan)
    first = jax.lax.axis_index(axes) * len(bank) if axes else 0

    def of_block(mine):
        asked = jax.lax.all_gather(mine, axes, tiled=True) if axes else mine
        found = _best_rows(bank, scales, asked, neighbors, axes)
        found = found._replace(indices=found.indices + first)
        if axes:
            # Each device gets what all found for its queries, in the order of devices,
            # so that among equally near rows the first one stays first.
            exchange = partial(
                jax.lax.all_to_all,
                axis_name=axes,
                split_axis=0,
                concat_axis=1,
                tiled=True,
            )
            found = _best(Neighbors(*map(exchange, found)), neighbors)
        return found

    blocks = queries.reshape(-1, block, queries.shape[1])
    found = jax.lax.map(of_block, blocks)
    return Neighbors(*(array.reshape(-1, neighbors) for array in found))


def _best_rows(bank, scales, queries, neighbors, axes) -> Neighbors:
    """Returns the neighbors among this device's rows, padded with -infinity."""
    size = min(_BANK, len(bank))
    query_scales = _inverse_norms(queries)[:, None]

    def add(at, best):
        # The last block starts early enough to be whole. Rows that the block before has
        # compared are left out of it.
        start = jnp.minimum(at * size, len(bank) - size)
        rows, scale = (
            jax.lax.dynamic_slice_in_dim(x, start, size) for x in (bank, scales)
        )
        products = _products(queries, rows)
        dtype = products.dtype
        known = start + jnp.arange(size, dtype=jnp.int32) < at * size
        # Products are scaled, not rows, which would be rounded to bfloat16 once more.
        cosines = products * query_scales.astype(dtype) * scale.astype(dtype)
        cosines = jnp.where(known | jnp.isnan(scale), -jnp.inf, cosines)
        here, order = jax.lax.top_k(cosines, min(neighbors, size))
        pairs = zip(best, (here, order + start), strict=True)
        # Earlier blocks stay first, because `top_k` prefers the first of equal values.
        both = (jnp.concatenate(pair, axis=1) for pair in pairs)
        return _best(Neighbors(*both), neighbors)

    shape, dtype = (len(queries), neighbors), _accumulated(bank, queries)
    none = Neighbors(jnp.full(shape, -jnp.inf, dtype), jnp.zeros(shape, jnp.int32))
    if axes:
        # `shard_map` wants a carry to vary over the same axes before and after.
        none = jax.lax.pcast(none, axes, to="varying")
    return jax.lax.fori_loop(0, -(-len(bank) // size), add, none)


def _products(queries, rows):
    dtype = jnp.promote_types(rows.dtype, queries.dtype)
    return jnp.matmul(
        queries.astype(dtype),
        rows.astype(dtype).T,
        precision=Precision.HIGHEST,
        preferred_element_type=_accumulated(rows, queries),
    )


def _accumulated(a, b):
    """Returns the dtype in which products of these arrays are added up."""
    return jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), jnp.float32)


def _best(found: Neighbors, neighbors: int) -> Neighbors:
    """Returns the nearest of the found rows; of equally near ones, the first."""
    similarities, order = jax.lax.top_k(found.similarities, neighbors)
    return Neighbors(similarities, jnp.take_along_axis(found.indices, order, axis=1))


def _inverse_norms(features):
    """Returns 1 / norm of each row, in float32 or float64; 0 for a row of zeros."""
    squares = jnp.sum(wide(features) ** 2, axis=1)
    return jnp.where(squares > 0, 1 / jnp.sqrt(squares), 0)
