"""Images in ArrayRecord files: a few large files instead of many small ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from vicreg_jax.decode import UnreadableError
from vicreg_jax.pretrain.input import _example
from vicreg_jax.pretrain.input.files import Files
from vicreg_jax.pretrain.input.sources import UNLABELED, Decoded

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Int32

    from vicreg_jax.pretrain.input.sources import T

# The names in TensorFlow Datasets, and in TensorFlow's ImageNet scripts.
IMAGE_KEYS = ("image", "image/encoded")
LABEL_KEYS = ("label", "image/class/label")


@dataclass(frozen=True)
class Records(Decoded):
    """Encoded images in ArrayRecord files; each record is a `tf.train.Example`.

    Attributes:
        paths: The files; their records are numbered in this order.
        size: Side in pixels to which every image is decoded.
        channels: 3 for RGB, 1 for grayscale.
    """

    paths: tuple[str, ...]
    size: int
    channels: int

    @property
    def labels(self) -> Int32[np.ndarray, " images"]:
        """The class of every image; -1 for none. The first use reads every record."""
        return self._labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Empty, because records have numbers alone."""
        return ()

    # `cached_property` writes to `__dict__`, which a frozen dataclass does not prevent.
    @cached_property
    def _labels(self):
        labels = [_label(self._example(i)) for i in range(len(self))]
        return np.array(labels, np.int32)

    def __len__(self) -> int:
        return len(self._records)

    def read(self, index: int, decoder: Callable[[Path | bytes], T]) -> tuple[T, int]:
        """Returns what a decoder makes of an image; see `FileSource`."""
        try:
            example = self._example(index)
            return decoder(_image(example)), _label(example)
        # Also the decoder's `UnreadableError`, an OSError, which lacks the name.
        except (OSError, ValueError) as error:
            name = self.name(index)
            raise UnreadableError(f"cannot read {name}: {error}") from error

    def name(self, index: int) -> str:
        """Returns the number of the record and the first file."""
        return f"record {index} of {self.paths[0]}, ..."

    @cached_property
    def _records(self):
        return ArrayRecordDataSource(list(self.paths))

    def _example(self, index: int) -> dict[str, bytes | int]:
        return _example.parse(self._records[index])

    def __getstate__(self):
        """Leaves out the open files, which cannot be pickled."""
        # Nor the labels: a worker process finds each in the record that it reads.
        kept = ("paths", "size", "channels")
        return {name: getattr(self, name) for name in kept}


def _image(example: dict[str, bytes | int]) -> bytes:
    image = next((example[key] for key in IMAGE_KEYS if key in example), None)
    if not isinstance(image, bytes):
        raise ValueError(f"it has none of {IMAGE_KEYS}, but {sorted(example)}")
    return image


def pack(source: Files, out: Path, *, shards: int = 1) -> list[Path]:
    """Writes image files into ArrayRecord files, unchanged and in their order.

    Args:
        source: The image files.
        out: A directory, created if missing.
        shards: How many files to write.

    Returns:
        The paths of the files.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for shard, ids in enumerate(np.array_split(np.arange(len(source)), shards)):
        path = out / f"images-{shard:05d}-of-{shards:05d}.array_record"
        # Grain asks for groups of one record, since a group is read as a whole.
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for index in ids.tolist():
            image = (source.root / source.paths[index]).read_bytes()
            label = int(source.labels[index])
            writer.write(_example.build({"image": image, "label": label}))
        writer.close()
        written.append(path)
    return written


def _label(example) -> int:
    label = next((example[key] for key in LABEL_KEYS if key in example), UNLABELED)
    return label if isinstance(label, int) else UNLABELED
