"""Tensors by name, read from a file and written to one, without unpickling code."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file by name.

    From a training checkpoint it takes those under "state_dict" (Lightning, and so
    lightly and solo-learn) or "model" (facebookresearch/vicreg).

    Args:
        path: a file that ends in .safetensors, or one written by `torch.save`, which
            needs PyTorch.

    Raises:
        ValueError: if the file is damaged, does not hold tensors by name, or holds
            anything but tensors and plain containers.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return _read_torch(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"`path` must be an undamaged safetensors file, got {path}: {error}"
        ) from error


def write(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes tensors to a safetensors file, for PyTorch's tools to read.

    Args:
        path: the file to write. It must end in .safetensors.
        tensors: the tensors by name.

    Raises:
        ValueError: if `path` does not end in .safetensors.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"`path` must end in .safetensors, got {path}")
    # The format has no strides, so transposed views must be copied.
    contiguous = {name: np.ascontiguousarray(v) for name, v in tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt"})


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    # Imported here so that only PyTorch's own files need PyTorch.
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError) as error:
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
        # NumPy has no bfloat16.
        name: (v.float() if v.dtype == torch.bfloat16 else v).detach().numpy()
        for name, v in loaded.items()
        if isinstance(v, torch.Tensor)
    }
