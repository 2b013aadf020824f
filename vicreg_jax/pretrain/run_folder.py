"""The run folder: which run it holds, and whether that can be continued.

config.json       the configuration, and the number of training images
metrics.jsonl     one line per step
evaluations.jsonl one line per quick check
checkpoints/      the newest states
compiled/         JAX's compilation cache, with which the next start compiles nothing
probes.json       accuracies; written last, so it marks a finished run
features.npz      the held-out features that the picture shows
report.png        the picture
tensorboard/      event files for TensorBoard
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from vicreg_jax.augment import DigitViews, ImageViews
from vicreg_jax.pretrain import processes
from vicreg_jax.pretrain.config import Config

if TYPE_CHECKING:
    from vicreg_jax.pretrain.config import Launch

_VIEWS = {views.__name__: views for views in (DigitViews, ImageViews)}


@contextmanager
def claim(config: Config, launch: Launch, *, images: int) -> Iterator[Path]:
    """Makes or finds the run folder, and keeps other runs out of it.

    Args:
        config: The configuration of the run.
        launch: Names the folder, or leaves the choice to this function.
        images: Number of training images, which the order of the images depends on.

    Raises:
        FileExistsError: If the run in it is finished, or another process uses it.
        ValueError: If the run in it has another configuration or number of images.
    """
    folder = launch.out or _unfinished(config) or _new(config)
    ours = contents(config, images)
    # Processes may take long to read their data sets.
    processes.wait_for_all("claim")
    checksum = hashlib.sha256(json.dumps(ours).encode()).hexdigest()
    processes.check_same("the configuration and the number of images", checksum)
    if finished(folder):
        raise FileExistsError(f"`out` must not hold a finished run, got {folder}")
    if (folder / "config.json").exists():
        _refuse_another(ours, folder)
    if jax.process_index() != 0:
        yield folder
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        # The system releases it when the process ends, in whatever way.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(
                f"`out` must not be in use by another process, got {folder}"
            ) from None
        write_json(folder / "config.json", ours)
        yield folder


def finished(folder: Path) -> bool:
    """Returns whether the run is complete."""
    return (folder / "probes.json").exists()


def contents(config: Config, images: int) -> dict[str, Any]:
    """Returns what config.json holds: a configuration and the number of images."""
    plain = dataclasses.asdict(config)
    plain["views"] = {"kind": type(config.views).__name__} | plain["views"]
    return json.loads(json.dumps(plain | {"images": images}))


def read_config(folder: Path) -> Config:
    """Returns the configuration of the run in a folder.

    Raises:
        ValueError: If the folder holds no run, or one of another version.
    """
    plain = _read(folder)
    try:
        del plain["images"]
        views = plain.pop("views")
        views = _VIEWS[views.pop("kind")](**_tuples(views))
        return Config(**plain, views=views)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"`run` must be a run folder of this version of vicreg_jax, got {folder}"
        ) from error


def _read(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "config.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"`run` must be the folder of a run, got {folder}") from error


def write_json(path: Path, content: Any) -> None:
    """Writes JSON to a file, as `write_whole` does."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Writes a file that exists completely or not at all."""
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        partial.write_text(text)
        os.replace(partial, path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names the file in errors, where the system often does not.

    Raises:
        OSError: If the file could not be written.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{path} could not be written: {reason}") from error


def _refuse_another(ours: dict[str, Any], folder: Path) -> None:
    theirs = contents(read_config(folder), _read(folder)["images"])
    for name in ours:
        if ours[name] == theirs[name]:
            continue
        if name == "images":
            raise ValueError(
                f"`data` must have {theirs[name]} training images as in the run that "
                f"{folder} holds, got {ours[name]}; for another run give another `out`"
            )
        raise ValueError(
            f"`{name}` must be {theirs[name]!r} as in the run that {folder} holds, "
            f"got {ours[name]!r}; for another run give another `out`"
        )


def _unfinished(config: Config) -> Path | None:
    wanted = contents(config, 0)  # a changed data set is refused, not run anew
    runs = sorted(Path("runs").glob(f"{_stem(config)}-*"), reverse=True)
    for run in runs:
        if finished(run):
            continue
        try:
            if contents(read_config(run), 0) == wanted and not _in_use(run):
                return run
        except ValueError:
            continue
    return None


def _in_use(folder: Path) -> bool:
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _new(config: Config) -> Path:
    return Path("runs", f"{_stem(config)}-{time.strftime('%Y%m%d-%H%M%S')}")


def _stem(config: Config) -> str:
    return Path(config.data).stem


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
