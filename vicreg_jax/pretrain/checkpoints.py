"""Checkpoints of a run, restored bit by bit or not at all.

    with Checkpoints(run_folder / "checkpoints", keep=3) as checkpoints:
        restored = checkpoints.restore(like=state)  # None in a new run
        ...
        checkpoints.save(step, state)

Orbax writes the arrays in the background, each process its own shards, and gives a
checkpoint its name in one last step. Its `CheckpointManager` lists and prunes them.

What Orbax lacks is a checksum of the values: it restores flipped bits without an error.
So a manifest beside the arrays holds the digest of each, and `restore` goes back to the
newest checkpoint whose values all agree with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import multihost

from vicreg_jax.pretrain import processes
from vicreg_jax.pretrain.digest import compile_for, digests
from vicreg_jax.pretrain.errors import UsageError

# Dtype, shape and digest of each array by name: what a checkpoint must contain.
Manifest = dict[str, list[Any]]
_NAMES = ocp.path.step.standard_name_format(step_format_fixed_length=8)


class Restored(NamedTuple):
    """A checkpoint whose values are those that were saved.

    Attributes:
        step: Number of steps before it was saved.
        state: The pytree, placed as asked for.
    """

    step: int
    state: Any


class Damaged(Exception):
    """A checkpoint differs from what was saved. The message says how."""


class Checkpoints:
    """The checkpoints of one run, in one directory.

    All processes call the same methods in the same order, on a directory that all of
    them see. The next call raises an error of a save in the background. Saves that an
    earlier process did not finish are removed.

    Args:
        directory: Where the checkpoints are. It is made if it does not exist.
        keep: Number of undamaged checkpoints to keep.
        warn: Called with a sentence for each checkpoint that is skipped or removed.

    Raises:
        ValueError: If `keep` is not positive.
        OSError: If `directory` cannot be written to.
    """

    def __init__(
        self,
        directory: Path,
        keep: int = 3,
        *,
        warn: Callable[[str], None] = warnings.warn,
    ):
        if keep < 1:
            raise ValueError(f"`keep` must be at least 1, got {keep}")
        self._directory = directory.absolute()
        self._warn = warn
        # The policy below has the same set, so that it knows what `restore` adds.
        self._damaged: set[int] = set()
        self._saving: int | None = None
        processes.together(self._prepare, OSError)
        self._manager = _Manager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                step_name_format=_NAMES,
                preservation_policy=_NewestUndamaged(keep, self._damaged),
                async_options=ocp.options.AsyncOptions(barrier_sync_fn=_barrier),
                # Made above, so that no process waits for one that failed.
                create=False,
                # Reads no metadata of the checkpoints, which may be damaged.
                lightweight_initialize=True,
            ),
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the last save and ends Orbax's threads."""
        try:
            self.wait()
        finally:
            # `wait` raises what failed. Orbax raises some of it a second time.
            with contextlib.suppress(OSError, ValueError):
                self._manager.close()

    def compile_for(self, state: Any) -> None:
        """Compiles in advance what `save` runs for states like this one."""
        compile_for(_named("state", state))

    def save(self, step: int, state: Any, *, wait: bool = False) -> None:
        """Saves a checkpoint in the background.

        The state is copied before this returns, so its arrays may be donated.

        Args:
            step: Number of steps so far, more than at the newest undamaged checkpoint.
            state: Pytree of JAX arrays, on any devices.
            wait: Whether to return only when the checkpoint is complete.

        Raises:
            ValueError: If the step is too small, or the processes' states differ.
            FloatingPointError: If a value is not finite.
            OSError: If this or the previous checkpoint could not be written.
        """
        self.wait()
        steps = self._manager.all_steps()
        least = 1 + max((s for s in steps if s not in self._damaged), default=-1)
        if step < least:
            raise ValueError(
                f"`step` must be at least {least}, after the newest checkpoint in "
                f"{self._directory}, got {step}"
            )
        arrays = _named("state", state)
        sealed = _seal(step, _manifest(step, arrays))
        # Each process writes its own shards. Differing states would be mixed.
        if not processes.same(sealed["sha256"]):
            raise ValueError("`state` must be the same in every process, but differs")
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays), manifest=ocp.args.JsonSave(sealed)
        )
        self._saving = step
        try:
            # It is damaged, since `least` is above every undamaged one.
            if step in steps:
                self._manager.delete(step)
                self._damaged.discard(step)
            # Orbax alone skips steps below its newest, even if that is damaged.
            self._manager.save(step, args=items, force=True)
        except Exception as error:
            raise self._unwritten(step, error) from error
        if wait:
            self.wait()

    def wait(self) -> None:
        """Waits until the last save is complete.

        Raises:
            OSError: If it could not be written.
        """
        step, self._saving = self._saving, None
        if step is None:
            return
        try:
            self._manager.wait_until_finished()
            # Orbax ends a save that it has canceled without an error.
            if jax.process_index() == 0:
                _read_manifest(step, _path(self._directory, step))
        except Exception as error:
            raise self._unwritten(step, error) from error

    def restore(self, like: Any) -> Restored | None:
        """Returns the newest checkpoint that is bit by bit what was saved.

        See the function `restore`.
        """
        self.wait()
        # The first process names and removes checkpoints. All must see the same.
        processes.wait_for_all("restore")
        return restore(self._directory, like, warn=self._warn, damaged=self._damaged)

    def _prepare(self) -> None:
        """Makes the directory and removes unfinished saves, in the first process."""
        if jax.process_index() != 0:
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            for path in self._remove_unfinished():
                self._warn(f"{path} is removed: its save was cut off")
        except OSError as error:
            raise OSError(
                f"Checkpoints need a directory that can be written to, got "
                f"{self._directory}: {error.strerror}"
            ) from error

    # Orbax does this only when a manager is made, and needs all processes for that.
    def _remove_unfinished(self) -> list[epath.Path]:
        found = ocp.path.step.all_temporary_paths(self._directory)
        paths = [unfinished.get() for unfinished in found]
        for path in paths:
            path.rmtree()
        return paths

    def _unwritten(self, step: int, error: Exception) -> OSError:
        """Frees the space of a failed save and returns the error to raise."""
        self._saving = None
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):
                self._remove_unfinished()
        return OSError(
            f"the checkpoint of step {step} could not be written to {self._directory} "
            f"(those before it are left as they were): {_reason(error)}"
        )


def restore(
    directory: Path,
    like: Any,
    *,
    warn: Callable[[str], None] = warnings.warn,
    damaged: set[int] | None = None,
) -> Restored | None:
    """Returns the newest checkpoint that is bit by bit what was saved.

    Nothing is written, so that the run in the directory may still be going on.

    Args:
        directory: Where the checkpoints are.
        like: Pytree of the saved structure, shapes and dtypes, of JAX arrays or of
            `jax.ShapeDtypeStruct` with a sharding. It is restored with these shardings,
            on as many devices as they name.
        warn: Called with a sentence for each damaged checkpoint.
        damaged: Set to which the steps of damaged checkpoints are added.

    Returns:
        None if there is no undamaged checkpoint.

    Raises:
        UsageError: If the checkpoint has other leaves, which the message names.
        ValueError: If a sharding of `like` does not fit its shape.
    """
    directory, damaged = directory.absolute(), set() if damaged is None else damaged
    leaves = _named("like", like)
    for leaf in leaves.values():
        leaf.sharding.shard_shape(leaf.shape)  # one that does not fit is not damage
    steps = [found.step for found in _NAMES.find_all(directory)]
    for step in sorted(steps, reverse=True):
        path = _path(directory, step)
        try:
            arrays = _read(step, path, leaves)
        except Damaged as reason:
            warn(f"{path} is skipped: {reason}")
            damaged.add(step)
            continue
        values = [arrays[name] for name in leaves]
        return Restored(step, jax.tree.unflatten(jax.tree.structure(like), values))
    return None


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Leaves preemption to the loop, which asks JAX after each step.

        Orbax would ask in the background, with the step of the checkpoint. JAX could
        then let a process stop at a step that the others have already passed.
        """
        del step
        return False


class _NewestUndamaged(ocp.checkpoint_managers.PreservationPolicy):
    """Keeps the newest undamaged checkpoints, and damaged ones only after these."""

    def __init__(self, keep: int, damaged: set[int]):
        self._keep, self._damaged = keep, damaged

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = [step for step in steps if step not in self._damaged][-self._keep :]
        return [step in kept or step > kept[-1] for step in steps]


def _barrier(*, key: str, timeout_ms: int) -> None:
    """Waits for all processes, but returns at once after an error in this one.

    Orbax would wait after an error too. That is a deadlock if the others wait for files
    of this process.
    """
    if sys.exc_info()[0] is None:
        multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


def _path(directory: Path, step: int) -> Path:
    return directory / _NAMES.build_name(step)


def _named(argument: str, tree: Any) -> dict[str, Any]:
    """Returns the leaves by their paths in the tree."""
    # Checkpoints store these names, so a field of the state that is renamed makes those
    # of older runs unreadable.
    leaves = jax.tree.leaves_with_path(tree)
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves
    ]
    if len(set(names)) < len(names) or not names:
        raise ValueError(
            f"`{argument}` must have leaves with unique paths, got {names}"
        )
    return dict(zip(names, (leaf for _, leaf in leaves), strict=True))


def _manifest(step: int, arrays: Mapping[str, jax.Array]) -> Manifest:
    found = digests(arrays)
    for name, digest in found.items():
        if not digest.finite:
            raise FloatingPointError(
                f"{name} is no longer finite after step {step - 1}; lower "
                "--learning-rate"
            )
    return {
        name: [str(array.dtype), list(array.shape), found[name].sums]
        for name, array in arrays.items()
    }


def _seal(step: int, manifest: Manifest) -> dict[str, str]:
    """Returns the manifest as text, with a checksum of the text and the step."""
    # The manifest becomes a string in the JSON file, so that its checksum does not
    # depend on how Orbax formats JSON.
    text = json.dumps(manifest)
    return {"sha256": _checksum(step, text), "manifest": text}


def _checksum(step: int, text: str) -> str:
    # With the step, so that a renamed checkpoint is not taken for one of another step.
    return hashlib.sha256(f"{step} {text}".encode()).hexdigest()


def _read_manifest(step: int, path: Path) -> Manifest:
    """Returns what a checkpoint must contain.

    Raises:
        Damaged: If the manifest is not the one saved for this step.
    """
    try:
        # Without a manager, whose barriers would wait for a process that failed.
        sealed = ocp.JsonCheckpointHandler().restore(epath.Path(path) / "manifest")
        text = sealed["manifest"]
        undamaged = _checksum(step, text) == sealed["sha256"]
    except Exception as error:
        raise Damaged(f"its manifest cannot be read, {_first_line(error)}") from error
    if not undamaged:
        raise Damaged(f"its manifest is not the one saved for step {step}")
    return json.loads(text)


def _read(step: int, path: Path, like: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Returns the arrays of a checkpoint.

    Raises:
        Damaged: If it is not what was saved, in all processes.
        UsageError: If `like` has another structure.
    """
    manifest = processes.together(lambda: _read_manifest(step, path), Damaged)
    # Another structure is not `Damaged`, after which `restore` tries older checkpoints:
    # those of the run have the same structure.
    _check_structure(path, manifest, like)
    arrays = processes.together(lambda: _read_arrays(path, like), Damaged)
    # The arrays may be sharded in another way than when they were saved. Their digests
    # do not depend on it.
    found = digests(arrays)
    other = [name for name, entry in manifest.items() if found[name].sums != entry[2]]
    if other:
        raise Damaged(f"its values are not those saved in {', '.join(other)}")
    return arrays


def _read_arrays(path: Path, like: Mapping[str, Any]) -> dict[str, jax.Array]:
    targets = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        for name, leaf in like.items()
    }
    try:
        return ocp.StandardCheckpointHandler().restore(
            epath.Path(path) / "state", args=ocp.args.StandardRestore(targets)
        )
    except Exception as error:
        # Not damage, and the checkpoint before would need as much memory.
        if "RESOURCE_EXHAUSTED" in str(error):
            raise
        raise Damaged(f"Orbax could not read it, {_first_line(error)}") from error


def _check_structure(path: Path, manifest: Manifest, like: Mapping[str, Any]) -> None:
    lines = [f"missing {name}" for name in like if name not in manifest]
    for name, (dtype, shape, _) in manifest.items():
        if name not in like:
            lines.append(f"unexpected {name}")
        elif (str(like[name].dtype), list(like[name].shape)) != (dtype, shape):
            wanted = f"{like[name].dtype}{list(like[name].shape)}"
            lines.append(f"{name} is {dtype}{shape} where {wanted} is wanted")
    if lines:
        # Such as after a change of the user's encoder, which kept its name.
        raise UsageError(
            f"The checkpoint must have the arrays of this network, got {path}, which "
            f"differs: {'; '.join(lines)}"
        )


def _reason(error: Exception) -> str:
    """Returns the system's message, also where TensorStore quotes its number."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    return getattr(error, "strerror", None) or str(error)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
