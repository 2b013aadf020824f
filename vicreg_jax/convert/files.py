"""Tensors by name from a file, and to one; nothing else is ever unpickled."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file by name.

    Of a training checkpoint, those under its "state_dict" (Lightning, so lightly and
    solo-learn) or its "model" (facebookresearch/vicreg).

    Args:
        path: a file ending in .safetensors, or one that `torch.save` wrote, for which
            PyTorch must be installed.

    Raises:
        ValueError: the file is damaged, holds no tensors by name, or holds more than
            tensors and plain containers.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return _read_torch(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"`path` must be a whole safetensors file, got {path}: {error}"
        ) from error


def write(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes tensors to a safetensors file, for PyTorch's tools to read.

    Args:
        path: of the file; it ends in .safetensors.
        tensors: by name.

    Raises:
        ValueError: `path` ends otherwise.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"`path` must end in .safetensors, got {path}")
    # The format knows no strides, and a transposed view is one.
    contiguous = {name: np.ascontiguousarray(v) for name, v in tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt"})


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    # Here alone, so that all else can do without.
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            "`path` must be a whole file of nothing but tensors and plain containers, "
            f"got {path}. If you trust it, load it in PyTorch with weights_only=False "
            "and save its state dict alone"
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
        # NumPy has no bfloat16 to take over.
        name: (v.float() if v.dtype == torch.bfloat16 else v).detach().numpy()
        for name, v in loaded.items()
        if isinstance(v, torch.Tensor)
    }
