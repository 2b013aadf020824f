"""One checkpoint, read and compared with what was saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from etils import epath

from vicreg_jax.pretrain import processes
from vicreg_jax.pretrain.checkpoints.digest import digests
from vicreg_jax.pretrain.checkpoints.folders import Checkpoint
from vicreg_jax.pretrain.checkpoints.leaves import Leaf, Stored, target
from vicreg_jax.pretrain.checkpoints.manifest import (
    Damaged,
    Manifest,
    check_structure,
    check_values,
    unseal,
)

T = TypeVar("T")
_FULL = "RESOURCE_EXHAUSTED"


def read(
    checkpoint: Checkpoint, like: Mapping[str, Leaf], orbax: ocp.AsyncCheckpointer
) -> tuple[Manifest, dict[str, Stored]]:
    """Returns what was saved, as `like` wants it placed.

    Raises:
        Damaged: In every process, if it is not what was saved.
        ValueError: If it is whole, but `like` is another structure.
    """
    if not checkpoint.placed:
        raise Damaged("its save was cut off")
    manifest = _together(lambda: read_manifest(checkpoint))
    check_structure(manifest, like)
    targets = {name: target(name, leaf) for name, leaf in like.items()}
    arrays = _together(lambda: _arrays(checkpoint, targets, orbax))
    check_values(manifest, digests(arrays))
    return manifest, arrays


def _arrays(
    checkpoint: Checkpoint, targets: dict[str, Any], orbax: ocp.AsyncCheckpointer
) -> dict[str, Stored]:
    state = ocp.args.Composite(state=ocp.args.StandardRestore(targets))
    try:
        return orbax.restore(checkpoint.path, state).state
    except Exception as error:
        # No fault of the file's: a checkpoint before it would not fit either.
        if isinstance(error, jax.errors.JaxRuntimeError) and _FULL in str(error):
            raise
        raise Damaged(f"Orbax could not read it, {_first_line(error)}") from error


def read_manifest(checkpoint: Checkpoint) -> Manifest:
    """Returns what the checkpoint must contain.

    Raises:
        Damaged: If that cannot be told.
    """
    try:
        folder = epath.Path(checkpoint.path) / "manifest"
        sealed = ocp.JsonCheckpointHandler().restore(folder)
    except Exception as error:
        raise Damaged(f"its manifest cannot be read, {_first_line(error)}") from error
    manifest = unseal(sealed)
    if manifest.step != checkpoint.step:
        raise Damaged(f"it is one of step {manifest.step} under another's name")
    return manifest


def _together(action: Callable[[], T]) -> T:
    """Runs what reads files: they are damaged for all processes, or for none."""
    results: list[T] = []
    failed = Damaged("another process could not read it")
    try:
        results.append(action())
    except Damaged as damaged:
        failed = damaged
    if not processes.all_of(bool(results)):
        raise failed
    return results[0]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
