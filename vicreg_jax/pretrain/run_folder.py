"""The folder of a run: whose it is, and whether there is something to go on with.

config.json       what the run is
metrics.jsonl     a line a step
evaluations.jsonl a line for each look at the features
checkpoints/      the newest states
compiled/         JAX's compilation cache: the next start need not compile again
probes.json       accuracies; there once the run is finished
features.npz      the held-out features that the picture shows
report.png        the picture
tensorboard/      what TensorBoard reads
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from vicreg_jax.pretrain import views_json
from vicreg_jax.pretrain.config import Config

if TYPE_CHECKING:
    from vicreg_jax.pretrain.config import Launch


@contextmanager
def claim(config: Config, launch: Launch) -> Iterator[Path]:
    """Makes the folder of a run, or finds it, and keeps other processes out of it.

    Raises:
        FileExistsError: the run in it is finished, or another process is at it.
        ValueError: the run in it is another one.
    """
    folder = launch.out or _unfinished(config) or _new(config)
    if finished(folder):
        raise FileExistsError(f"`out` must not hold a finished run, got {folder}")
    if (folder / "config.json").exists():
        _refuse_another(config, folder)
    if jax.process_index() != 0:
        yield folder
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        # The system lets go of it when the process ends, however it ends.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(
                f"`out` must not be in use by another process, got {folder}"
            ) from None
        write_json(folder / "config.json", choices(config))
        yield folder


def finished(folder: Path) -> bool:
    """Returns whether the run came to its end."""
    return (folder / "probes.json").exists()


def choices(config: Config) -> dict[str, Any]:
    """Returns a configuration as JSON has it."""
    plain = dataclasses.asdict(config)
    plain["views"] = views_json.to_json(config.views)
    return json.loads(json.dumps(plain))


def read_config(folder: Path) -> Config:
    """Returns the configuration of the run in a folder.

    Raises:
        ValueError: there is no run, or one of another version.
    """
    try:
        plain = json.loads((folder / "config.json").read_text())
        views = views_json.from_json(plain.pop("views"))
        return Config(**plain, views=views)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"`run` must be the folder of a run, got {folder}") from error


def write_json(path: Path, content: Any) -> None:
    """Writes JSON as `write_whole` does."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is there in whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        partial.write_text(text)
        os.replace(partial, path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names the file in the error, where the system often does not.

    Raises:
        OSError: it could not be written.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{path} could not be written: {reason}") from error


def _refuse_another(config: Config, folder: Path) -> None:
    ours, theirs = choices(config), choices(read_config(folder))
    for name in ours:
        if ours[name] != theirs[name]:
            raise ValueError(
                f"`{name}` must be {theirs[name]!r} as in the run that {folder} holds, "
                f"got {ours[name]!r}; for another run give another `out`"
            )


def _unfinished(config: Config) -> Path | None:
    runs = sorted(Path("runs").glob(f"{_stem(config)}-*"), reverse=True)
    for run in runs:
        if finished(run):
            continue
        try:
            if choices(read_config(run)) == choices(config) and not _in_use(run):
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
