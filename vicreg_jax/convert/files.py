"""Tensors by name, read from a file and written to one, without unpickling code."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

# What PyTorch raises for files that are damaged or hold other things.
_DAMAGED = (
    pickle.UnpicklingError,
    struct.error,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file by name.

    From a training checkpoint it takes those under "state_dict" (Lightning, and so
    lightly and solo-learn) or "model" (facebookresearch/vicreg).

    Args:
        path: A file that ends in .safetensors, or one written by `torch.save`, which
            needs PyTorch.

    Raises:
        ValueError: If the file is damaged or a directory, does not hold tensors by
            name, holds anything but tensors and plain containers, or a tensor that
            NumPy cannot hold; or if it needs PyTorch, which is not installed.
        FileNotFoundError: If there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"`path` must be a file of tensors, got the directory {path}")
    if path.suffix != ".safetensors":
        return _read_torch(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"`path` must be an undamaged safetensors file, got {path}: {error}"
        ) from error
    # safetensors asks NumPy for dtypes that it lacks, such as float8.
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"`path` must hold tensors of NumPy's dtypes, got {path}: {error}"
        ) from error


def write(
    path: str | Path,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes tensors to a safetensors file, for PyTorch's tools to read.

    Args:
        path: The file to write. It must end in .safetensors.
        tensors: The tensors by name.
        metadata: Texts for the file's header.

    Raises:
        ValueError: If `path` does not end in .safetensors.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"`path` must end in .safetensors, got {path}")
    # The format has no strides, so transposed views must be copied.
    contiguous = {name: np.ascontiguousarray(v) for name, v in tensors.items()}
    # Not by `save_file`, whose file no other user of the machine may read.
    content = save(contiguous, metadata={"format": "pt"} | dict(metadata or {}))
    Path(path).write_bytes(content)


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    # Imported here so that only PyTorch's own files need PyTorch.
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ValueError(
            "`path` must end in .safetensors without PyTorch (`pip install torch`), "
            f"got {path}"
        ) from error
    # `weights_only` refuses pickles that run code. Without `map_location`, tensors that
    # were saved on a GPU would ask for that GPU.
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        raise ValueError(
            "`path` must be a PyTorch file of tensors and plain containers only, not "
            f"damaged, got {path}. Save the state dict alone: "
            "torch.save(model.state_dict(), path)"
        ) from error
    for name in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
            break
    if not isinstance(loaded, Mapping):
        raise ValueError(
            f"`path` must hold tensors by name, got {path} with a "
            f"{type(loaded).__name__}"
        )
    return {
        name: _array(name, tensor, path)
        for name, tensor in loaded.items()
        # A module may add other things by `get_extra_state`.
        if isinstance(tensor, torch.Tensor)
    }


def _array(name: Any, tensor: Any, path: Path) -> np.ndarray:
    """Returns a tensor of PyTorch in NumPy, which has no bfloat16."""
    if not isinstance(name, str):
        raise ValueError(f"`path` must hold tensors by name, got {path} with {name!r}")
    wide = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
    try:
        return wide.detach().numpy()
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"`path` must hold dense tensors of NumPy's dtypes, got {path} with "
            f"`{name}` of {tensor.dtype}, {tensor.layout}"
        ) from error
