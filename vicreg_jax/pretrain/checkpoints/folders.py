"""The names of checkpoints: a folder for each, by its step."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

# The step, the attempt if it is not the first, and what Orbax adds until it is done.
_NAME = re.compile(r"(\d{8,})(?:-(\d+))?(\.orbax-checkpoint-tmp.*)?")


@dataclass(frozen=True)
class Checkpoint:
    """Where a checkpoint is, whatever its state.

    Attributes:
        path: Its folder.
        step: The step it is of.
        attempt: How many of the same step were saved before it.
        placed: Whether its save came to the end.
    """

    path: Path
    step: int
    attempt: int
    placed: bool = True


def place(folder: Path, step: int, attempt: int) -> Checkpoint:
    """Returns where to save a checkpoint.

    A second one of a step has a name of its own: so the first need not go before the
    second is whole.
    """
    name = f"{step:08d}-{attempt}" if attempt else f"{step:08d}"
    return Checkpoint(folder / name, step, attempt)


def found(folder: Path) -> list[Checkpoint]:
    """Returns what is in the folder and named as a checkpoint, newest first."""
    if not folder.exists():
        return []
    named = ((path, _NAME.fullmatch(path.name)) for path in folder.iterdir())
    checkpoints = [
        Checkpoint(path, int(name[1]), int(name[2] or 0), placed=name[3] is None)
        for path, name in named
        if name
    ]
    return sorted(checkpoints, key=lambda c: (c.step, c.attempt, c.placed))[::-1]


def prepare(folder: Path) -> list[Checkpoint]:
    """Makes the folder and clears it of saves that were cut off.

    They would never be read, and take up the space that the next one needs. Returns
    the others, newest first.

    Raises:
        OSError: If that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for checkpoint in found(folder):
            if not checkpoint.placed:
                _remove(checkpoint.path)
    except OSError as error:
        raise OSError(
            f"`folder` must be one that can be written to, got {folder}: {error}"
        ) from error
    return [checkpoint for checkpoint in found(folder) if checkpoint.placed]


def newest_and_attempt(
    folder: Path, step: int, damaged: Collection[Path]
) -> tuple[int, int]:
    """Prepares the folder for a checkpoint of this step.

    Returns the newest step there that is not damaged, and how many are of this step.

    Raises:
        OSError: If it cannot be prepared.
    """
    there = prepare(folder)
    attempts = [c.attempt + 1 for c in there if c.step == step]
    whole = [c.step for c in there if c.path not in damaged]
    return max(whole, default=0), max(attempts, default=0)


def prune(folder: Path, step: int, keep: int, damaged: Collection[Path]) -> None:
    """Removes all but the newest checkpoints of the newest steps.

    Damaged ones do not count, and go when the run has come past their step again.
    """
    steps = set()
    for checkpoint in found(folder):
        if checkpoint.path in damaged:
            if checkpoint.step <= step:
                _remove(checkpoint.path)
        elif checkpoint.step in steps or len(steps) == keep:
            _remove(checkpoint.path)
        else:
            steps.add(checkpoint.step)


def reason(error: Exception) -> str:
    """What the system said, TensorStore's message quoting it or not; else all of it."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    return getattr(error, "strerror", None) or str(error)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
