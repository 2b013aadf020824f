"""CIFAR-10 and CIFAR-100 in their Python version."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.input.sources import Arrays

# The files are pickles, and a pickle can run any program. So only the files that
# https://www.cs.toronto.edu/~kriz/cifar.html publishes are read. MD5 has collisions,
# but nobody can make another file for a given sum. Their MD5 sums:
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}


def cifar_files(path: Path) -> list[Path]:
    """Returns the training files in a directory of CIFAR, or `path` if it is one file.

    The list is empty if `path` is not in the Python version of CIFAR.
    """
    directory = path if path.is_dir() else path.parent
    if (directory / "data_batch_1").is_file():
        training = [directory / f"data_batch_{number}" for number in range(1, 6)]
    elif (directory / "train").is_file() and (directory / "meta").is_file():
        training = [directory / "train"]
    else:
        return []
    # A file that is missing is left to `open_source`, which says so.
    return training if path.is_dir() else [path] * path.is_file()


def read_cifar(files: list[Path]) -> Arrays:
    """Returns the images of some files of CIFAR, with their fine labels.

    Raises:
        UsageError: If a file is not the published one.
        FileNotFoundError: If a file is missing.
    """
    parts = [_read(file) for file in files]
    pixels = np.concatenate([part[b"data"] for part in parts])
    key = b"labels" if b"labels" in parts[0] else b"fine_labels"
    labels = np.concatenate([part[key] for part in parts]).astype(np.int32)
    # A row holds three planes of 32x32: red, green and blue.
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    classes = _classes(files[0].parent, count=int(labels.max()) + 1)
    return Arrays(np.ascontiguousarray(images), labels, classes)


def _classes(directory: Path, count: int) -> tuple[str, ...]:
    """Returns the names of the classes, or numbers if their file is not there."""
    for name, key in (("batches.meta", b"label_names"), ("meta", b"fine_label_names")):
        try:
            return tuple(word.decode() for word in _read(directory / name)[key])
        except (FileNotFoundError, UsageError):
            continue
    return tuple(str(label) for label in range(count))


def _read(file: Path) -> dict[bytes, Any]:
    content = file.read_bytes()
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 != MD5.get(file.name):
        raise UsageError(
            "--data must be the published files of CIFAR's Python version, got "
            f"{file} with the MD5 sum {md5}"
        )
    # Python 2 wrote these files, so that strings are bytes, also the keys.
    return pickle.loads(content, encoding="bytes")
