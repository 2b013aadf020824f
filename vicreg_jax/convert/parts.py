"""The part of a PyTorch checkpoint that is one network, and a network from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from flax import nnx

from vicreg_jax.convert.files import read
from vicreg_jax.convert.names import listed, load_state_dict, without_counts

Source: TypeAlias = str | Path | Mapping[str, np.ndarray]
Tensors: TypeAlias = dict[str, np.ndarray]
_Network = TypeVar("_Network", bound=nnx.Module)


def part(
    source: Source, prefix: str | None, is_it: Callable[[Tensors], bool], what: str
) -> Tensors:
    """Returns the tensors of one part of a checkpoint, with the prefix removed.

    Args:
        source: The whole checkpoint, a file or tensors by name.
        prefix: Prefix of the part. None: the only one under which it is.
        is_it: Recognizes the part by its names.
        what: The part in words, for errors.

    Raises:
        ValueError: If there is no such part, or more than one.
    """
    whole = source if isinstance(source, Mapping) else read(source)
    tensors = without_counts(whole)
    names = [name.split(".") for name in tensors]
    # Depth 0 is the empty prefix, for a file that holds this part alone.
    starts = {
        "".join(f"{part}." for part in name[:depth])
        for name in names
        for depth in range(len(name))
    }
    given = starts if prefix is None else {prefix}
    parts = {start: _under(tensors, start) for start in given}
    parts = {start: part for start, part in parts.items() if is_it(part)}
    if len(parts) == 1:
        return next(iter(parts.values()))
    if parts:
        raise ValueError(
            f"`prefix` must be given, because there is {what} under each of "
            f"{listed(parts)}"
        )
    where = "" if prefix is None else f" under `{prefix}`"
    raise ValueError(
        f"`source` must hold {what}{where} in PyTorch's names, got {listed(tensors)}"
    )


def _under(tensors: Tensors, prefix: str) -> Tensors:
    return {
        k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)
    }


def filled(build: Callable[..., _Network], tensors: Tensors) -> _Network:
    """Returns what `build` makes, in eval mode, with these parameters.

    Raises:
        ValueError: If they do not fit; see `load_state_dict`.
    """
    # Shapes suffice, because every parameter is overwritten.
    model = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
    load_state_dict(model, tensors)
    # In training mode one call would overwrite the loaded running statistics.
    model.eval()
    return model
