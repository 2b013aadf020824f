"""Image files in a folder, which may have one subfolder for each class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vicreg_jax.decode import UnreadableError
from vicreg_jax.pretrain.input.sources import UNLABELED, Decoded

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Int32

    from vicreg_jax.pretrain.input.sources import T

# Those of torchvision's ImageFolder, and GIF.
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}
SUFFIXES |= {".webp"}


@dataclass(frozen=True)
class Files(Decoded):
    """Image files, decoded when they are indexed to squares of `size` pixels a side."""

    root: Path
    paths: tuple[str, ...]
    labels: Int32[np.ndarray, " images"]
    classes: tuple[str, ...]
    size: int
    channels: int

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int, decoder: Callable[[Path | bytes], T]) -> tuple[T, int]:
        """Returns what a decoder makes of an image; see `FileSource`."""
        path = self.root / self.paths[index]
        try:
            return decoder(path), int(self.labels[index])
        except UnreadableError as error:
            raise UnreadableError(f"cannot read {path}: {error}") from error

    def name(self, index: int) -> str:
        """Returns the path of the file."""
        return str(self.root / self.paths[index])


def folder(root: Path, *, size: int, channels: int = 3, name: str = "`root`") -> Files:
    """Returns the images in a folder and its subfolders, sorted by path.

    The subfolders directly below `root` are the classes, unless `root` itself holds
    images: then no image has a label. Hidden files and folders are skipped, such as
    the ``._a.jpg`` that macOS writes beside ``a.jpg``.

    Args:
        root: The folder.
        size: Side in pixels to which every image is decoded.
        channels: 3 for RGB, 1 for grayscale.
        name: Name of the argument that `root` comes from, for errors.

    Raises:
        FileNotFoundError: If there is no such folder, or no image in it.
        NotADirectoryError: If `root` is a file.
    """
    if root.is_file():
        raise NotADirectoryError(
            f"{name} must be a folder of images, got a file, {root}"
        )
    if not root.is_dir():
        raise FileNotFoundError(f"{name} must be a folder of images, got {root}")
    # Sorted by text, so that every host numbers the images alike.
    paths = sorted(path.relative_to(root).as_posix() for path in _images(root))
    if not paths:
        raise FileNotFoundError(f"{name} must hold images, found none in {root}")
    labeled = all("/" in path for path in paths)
    # Numbered in the order of their names, as by torchvision's ImageFolder.
    classes = sorted({path.split("/")[0] for path in paths}) if labeled else []
    number = {label: i for i, label in enumerate(classes)}
    labels = [number.get(path.split("/")[0], UNLABELED) for path in paths]
    labels = np.array(labels, np.int32)
    return Files(root, tuple(paths), labels, tuple(classes), size, channels)


def _images(root: Path) -> Iterator[Path]:
    # Links are followed as by ImageFolder.
    for directory, subfolders, files in os.walk(root, followlinks=True):
        # `os.walk` descends into what this list holds.
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(directory, name)
