"""Parameters and batch-norm statistics in PyTorch's names and layout, both ways."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from vicreg_jax.nn import Expander

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_PARTS = {"encoder": "backbone", "expander": "projector"}
# The official expander is a Sequential whose numbers include batch norms and ReLUs.
_EXPANDER = {
    "linear1": "0",
    "norm1": "1",
    "linear2": "3",
    "norm2": "4",
    "linear3": "6",
}
# Kernels are (height, width, in, out) in Flax and (out, in, height, width) in PyTorch,
# linear ones (in, out) and (out, in).
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}
_TO_FLAX = {4: (2, 3, 1, 0), 2: (1, 0)}
_MOST_KEYS = 20


def state_dict(model: nnx.Module) -> dict[str, np.ndarray]:
    """Returns a network's parameters and statistics in PyTorch's names and layout.

    A `ResNet` gets torchvision's names, a `ConvNeXt` and a `ViT` those of timm, and an
    `Expander` those of the official projector. A `VICReg` gets both, under "backbone."
    and "projector.". They load in PyTorch with ``strict=True`` if ``fc`` is an
    ``Identity``, in timm with ``num_classes=0``.

    Args:
        model: A network of `vicreg_jax.nn`.
    """
    return {
        name: _transposed(np.asarray(variable), _TO_TORCH)
        for name, _, variable in _variables(model)
    }


def load_state_dict(model: nnx.Module, tensors: Mapping[str, np.ndarray]) -> None:
    """Sets a network's parameters and statistics: the inverse of `state_dict`.

    Args:
        model: A network of `vicreg_jax.nn`, changed in place. It keeps its dtypes.
        tensors: Tensors by PyTorch's names. "num_batches_tracked" is ignored.

    Raises:
        ValueError: If keys are missing, unexpected, of another shape or not of a
            floating dtype. The network is then unchanged.
    """
    wanted = {name: (path, variable) for name, path, variable in _variables(model)}
    given = without_counts(tensors).keys()
    if given != wanted.keys():
        raise ValueError(
            "`tensors` must have the keys of the network: "
            f"missing {listed(wanted.keys() - given)}, "
            f"unexpected {listed(given - wanted.keys())}"
        )
    # All tensors are checked before the first is set.
    state = {
        path: variable.replace(_fitting(name, tensors[name], variable))
        for name, (path, variable) in wanted.items()
    }
    nnx.update(model, nnx.from_flat_state(state))


def without_counts(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors other than "num_batches_tracked"."""
    # PyTorch uses these for `momentum=None` alone, a plain average over all batches.
    # The batch norms here have a fixed momentum.
    return {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}


def listed(keys: Iterable[str]) -> str:
    """Returns keys for an error message, sorted, at most 20 of them."""
    names = sorted(keys)
    rest = len(names) - _MOST_KEYS
    first = ", ".join(f"`{name}`" for name in names[:_MOST_KEYS])
    return (first or "none") + (f" and {rest} more" if rest > 0 else "")


def _variables(model: nnx.Module) -> Iterator[tuple[str, tuple, Any]]:
    """Yields PyTorch's name, the path and the variable of everything that is saved."""
    # Without the random streams of drop path, which PyTorch's modules do not have.
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    expanders = {
        path for path, part in nnx.iter_modules(model) if isinstance(part, Expander)
    }
    for path, variable in nnx.to_flat_state(state):
        # A ViT has layers with the same names as those of an expander.
        layers = _EXPANDER if path[:-2] in expanders else {}
        *parts, leaf = map(str, path)
        parts = [layers.get(part, _PARTS.get(part, part)) for part in parts]
        yield ".".join([*parts, _LEAVES.get(leaf, leaf)]), path, variable


def _fitting(name: str, tensor: np.ndarray, variable: Any) -> jnp.ndarray:
    """Returns a tensor in Flax's layout and the dtype of `variable`."""
    value = np.asarray(tensor)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"`{name}` must have a floating dtype, got {value.dtype}")
    ours = _transposed(value, _TO_FLAX)
    if ours.shape != variable.shape:
        order = _TO_TORCH.get(len(variable.shape), range(len(variable.shape)))
        expected = tuple(variable.shape[axis] for axis in order)
        raise ValueError(f"`{name}` must have shape {expected}, got {value.shape}")
    return jnp.asarray(ours, variable.dtype)


def _transposed(value: np.ndarray, orders: dict[int, tuple[int, ...]]) -> np.ndarray:
    order = orders.get(value.ndim)
    return value if order is None else value.transpose(order)
