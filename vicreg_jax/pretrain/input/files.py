"""Images in files, by class in folders or not."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vicreg_jax.pretrain.input.decode import UnreadableError, decode
from vicreg_jax.pretrain.input.sources import UNLABELLED, Sample

if TYPE_CHECKING:
    from jaxtyping import Int32

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}
SUFFIXES |= {".webp"}


@dataclass(frozen=True)
class Files:
    """Images in files, decoded when they are asked for, `size` pixels a side."""

    root: Path
    paths: tuple[str, ...]
    labels: Int32[np.ndarray, " images"]
    classes: tuple[str, ...]
    size: int
    channels: int = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        return self.size, self.size, self.channels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        path = self.root / self.paths[index]
        try:
            pixels, aspect = decode(path, size=self.size, channels=self.channels)
        except UnreadableError as error:
            raise UnreadableError(f"cannot read {path}: {error}") from error
        return Sample(pixels, int(self.labels[index]), aspect)

    def name(self, index: int) -> str:
        """Returns the path of the file."""
        return str(self.root / self.paths[index])


def folder(
    root: Path, *, size: int, channels: int = 3, labelled: bool | None = None
) -> Files:
    """Returns the images below `root`, sorted by path.

    Args:
        root: the folder.
        size: side in pixels to which every image is decoded.
        channels: 3 for RGB, 1 for grey.
        labelled: whether the folders directly below `root` are classes. None: they
            are, unless images lie in `root` itself.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"`root` must be a folder, got {root}")
    found = (
        (Path(directory) / file).relative_to(root)
        for directory, _, files in os.walk(root, followlinks=True)
        for file in files
        if Path(file).suffix.lower() in SUFFIXES
    )
    # Sorted by text, so that every host numbers the images alike.
    paths = sorted(path.as_posix() for path in found)
    if not paths:
        raise FileNotFoundError(f"`root` must hold images, found none below {root}")
    if labelled is None:
        labelled = all("/" in path for path in paths)
    classes = sorted({p.split("/")[0] for p in paths if "/" in p}) if labelled else []
    number = {name: i for i, name in enumerate(classes)}
    labels = [number.get(path.split("/")[0], UNLABELLED) for path in paths]
    labels = np.array(labels, np.int32)
    return Files(root, tuple(paths), labels, tuple(classes), size, channels)
