"""The checkpoints of a run: saved in the background, restored when they are whole."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from vicreg_jax.pretrain import processes
from vicreg_jax.pretrain.checkpoints import folders
from vicreg_jax.pretrain.checkpoints.digest import digests
from vicreg_jax.pretrain.checkpoints.leaves import loaded, named, stored
from vicreg_jax.pretrain.checkpoints.manifest import Damaged, build, seal
from vicreg_jax.pretrain.checkpoints.read import read, read_manifest
from vicreg_jax.pretrain.processes import wait_for_all


@dataclass(frozen=True)
class Restored:
    """A checkpoint, whole.

    Attributes:
        step: The step it is of.
        state: The pytree that was saved, bit by bit, placed as was asked for.
        extra: What was saved beside the arrays.
    """

    step: int
    state: Any
    extra: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, in one folder, each in a folder named by its step.

    Every process of a job calls the same methods in the same order, and all see the
    same folder. What fails in the background is raised by the method called next.

    Args:
        folder: Where the checkpoints are; made when the first is saved.
        keep: Of how many steps to keep them.
        every: How many steps lie between two, for `due`.
        warn: Called with a sentence for every checkpoint that `restore` skips.

    Raises:
        ValueError: If `keep` or `every` is not positive.
        NotADirectoryError: If `folder` is something else.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 3,
        every: int | None = None,
        *,
        warn: Callable[[str], None] = warnings.warn,
    ):
        if keep < 1:
            raise ValueError(f"`keep` must be at least 1, got {keep}")
        if every is not None and every < 1:
            raise ValueError(f"`every` must be None or at least 1, got {every}")
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"`folder` must be a folder, got a file: {folder}")
        self._folder = folder.absolute()
        self._keep = keep
        self._every = every
        self._warn = warn
        self._damaged: set[Path] = set()
        self._saving: folders.Checkpoint | None = None
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the last save and lets go of Orbax's threads."""
        try:
            self.wait()
        finally:
            # What had failed was raised by `wait`; Orbax raises some of it once more.
            with contextlib.suppress(OSError, ValueError):
                self._orbax.close()

    def due(self, step: int) -> bool:
        """Whether `every` asks for a checkpoint of this step."""
        return self._every is not None and step > 0 and step % self._every == 0

    def save(
        self, step: int, state: Any, extra: dict[str, Any], wait: bool = False
    ) -> None:
        """Saves a checkpoint, in the background.

        When it returns, the state has been copied: its arrays may be donated. Of two
        checkpoints of one step the later counts.

        Args:
            step: The step, not before that of the newest whole checkpoint.
            state: A pytree of JAX arrays, however sharded, NumPy arrays and PRNG keys.
            extra: What JSON can hold, the same in every process.
            wait: Whether to return only when it is in place.

        Raises:
            ValueError: If the step is before the newest, or `state` has no arrays.
            TypeError: If a leaf is no array, or `extra` not for JSON.
            OSError: If this or the save before could not be written. The checkpoints
                before it are left as they were.
        """
        self.wait()
        leaves = named("state", state)
        arrays = {name: stored(leaf) for name, leaf in leaves.items()}
        sealed = seal(build(step, leaves, digests(arrays), extra))
        processes.check_same("`extra`, like every NumPy array,", sealed["sha256"])
        self._saving = self._place(step)
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays), manifest=ocp.args.JsonSave(sealed)
        )
        try:
            self._orbax.save(self._saving.path, arguments)
        except Exception as error:
            raise self._unwritten(self._saving, error) from error
        if wait:
            self.wait()

    def _place(self, step: int) -> folders.Checkpoint:
        newest, attempt = processes.from_first(
            lambda: folders.newest_and_attempt(self._folder, step, self._damaged)
        )
        if not 0 <= newest <= step:
            raise ValueError(
                f"`step` must not be before the newest checkpoint in {self._folder}, "
                f"{newest}, got {step}"
            )
        return folders.place(self._folder, step, attempt)

    def wait(self) -> None:
        """Waits until the last save is in place, then prunes what it replaces.

        Raises:
            OSError: If it could not be written.
        """
        if self._saving is None:
            return
        try:
            self._orbax.wait_until_finished()
            if jax.process_index() == 0:
                read_manifest(self._saving)
        except Exception as error:
            raise self._unwritten(self._saving, error) from error
        step, self._saving = self._saving.step, None
        if jax.process_index() == 0:
            folders.prune(self._folder, step, self._keep, self._damaged)

    def _unwritten(self, saving: folders.Checkpoint, error: Exception) -> OSError:
        """Gives back the space that the failed save took, and says what failed."""
        self._saving = None
        reason = folders.reason(error)
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):
                folders.prepare(self._folder)
        return OSError(
            f"the checkpoint of step {saving.step} could not be written to "
            f"{self._folder} (those before it are left as they were): {reason}"
        )

    def restore(self, like: Any) -> Restored | None:
        """Returns the newest checkpoint that is what was saved, bit by bit.

        A checkpoint that is not is named to `warn` and skipped for the one before.

        Args:
            like: A pytree of the structure, shapes and dtypes that were saved. A JAX
                array, or a ShapeDtypeStruct, is restored as a JAX array with its
                sharding (without one, on the first device), on however many devices;
                a NumPy array as a NumPy array.

        Returns:
            None if there is no such checkpoint.

        Raises:
            ValueError: If `like` has other leaves; it names them.
            OSError: If the save before could not be written.
        """
        self.wait()
        wait_for_all("restore")
        leaves = named("like", like)
        for checkpoint in folders.found(self._folder):
            try:
                manifest, arrays = read(checkpoint, leaves, self._orbax)
            except Damaged as damaged:
                self._damaged.add(checkpoint.path)
                self._warn(f"{checkpoint.path} is skipped: {damaged}")
                continue
            values = [loaded(leaf, arrays[name]) for name, leaf in leaves.items()]
            state = jax.tree.unflatten(jax.tree.structure(like), values)
            return Restored(manifest.step, state, manifest.extra)
        return None
