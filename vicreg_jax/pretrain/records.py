"""Metrics files, with one JSON object per line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from vicreg_jax.pretrain.run_folder import write_whole, writing
from vicreg_jax.pretrain.speed import Speed

if TYPE_CHECKING:
    from vicreg_jax.pretrain.classifier import Metrics as ClassifierMetrics
    from vicreg_jax.pretrain.step import Metrics

Line = dict[str, Any]
_TERMS = ("invariance", "variance", "covariance")
# In this order, because an error names the first one that is not finite: a term
# rather than the loss, and the loss rather than its gradient.
_MUST_BE_FINITE = (*_TERMS, *(f"local_{term}" for term in _TERMS))
_MUST_BE_FINITE += ("loss", "gradient_norm")


class _Pending(NamedTuple):
    step: int
    metrics: Metrics | ClassifierMetrics
    order: int


class Log:
    """The metrics of a run, in its directory.

    Metrics stay on the devices until `write` fetches those of many steps at once. The
    first process writes the files.

    Attributes:
        speed: Measures the speed between two writes.

    Args:
        run_folder: Where to write metrics.jsonl and evaluations.jsonl.
        first: The next step. Lines of this step and later ones are removed.
        batch: Images per step.
        steps_per_epoch: Steps per epoch.
        waited: Returns the seconds so far that the devices waited for images.
        tensorboard: Whether to write for TensorBoard as well.

    Raises:
        OSError: Here and in all methods, if a file cannot be written. It is named.
    """

    def __init__(
        self,
        run_folder: Path,
        *,
        first: int,
        batch: int,
        steps_per_epoch: int,
        waited: Callable[[], float],
        tensorboard: bool,
    ):
        self._steps = run_folder / "metrics.jsonl"
        self._checks = run_folder / "evaluations.jsonl"
        self._steps_per_epoch = steps_per_epoch
        self.speed = Speed(batch, waited)
        self._pending: list[_Pending] = []
        self._last: Line | None = None  # that `write` has not returned yet
        self._writes = jax.process_index() == 0
        self._board = None
        if self._writes:
            _keep(self._steps, lambda line: line["step"] < first)
            # A quick check is of the state after so many steps.
            _keep(self._checks, lambda line: line["step"] <= first)
        if self._writes and tensorboard:
            from vicreg_jax.pretrain.tensorboard import Board

            self._board = Board(run_folder / "tensorboard", first=first)
            # TensorBoard now hides the check of the state that the run starts from.
            for line in read(self._checks)[-1:]:
                if line["step"] == first:
                    self._board.add(line, "check")

    def add(self, step: int, metrics: Metrics | ClassifierMetrics, order: int) -> None:
        """Adds the metrics of a step that the devices may still be computing.

        `order` is the hash of this process's images.
        """
        self._pending.append(_Pending(step, metrics, order))

    def write(self, *, leave: int = 0) -> Line | None:
        """Writes the steps so far.

        Args:
            leave: Number of newest steps to leave for the next call.

        Returns:
            The last line of a step since the last call, if any.

        Raises:
            FloatingPointError: If a loss or a gradient is not finite.
        """
        self._write(len(self._pending) - leave)
        if self._board is not None and not leave:
            self._board.flush()
        last, self._last = self._last, None
        return last

    def quick_check(self, line: Line) -> None:
        """Writes the steps so far, and then the result of a quick check.

        Raises:
            FloatingPointError: If a loss or a gradient is not finite.
        """
        # In this order, the steps that TensorBoard gets never go back.
        self._write(len(self._pending))
        self._append(self._checks, [line], "check")

    def close(self) -> None:
        """Closes TensorBoard's file."""
        if self._board is not None:
            self._board.close()

    def _write(self, count: int) -> None:
        taken, self._pending = self._pending[:count], self._pending[count:]
        if not taken:
            return
        lines = self._lines(taken)
        # Before the check, so that the file has the step that is not finite.
        self._append(self._steps, lines, "train")
        for line in lines:
            _check_finite(line)
        self._last = lines[-1]

    def _lines(self, taken: list[_Pending]) -> list[Line]:
        values = jax.device_get([pending.metrics for pending in taken])
        orders = _over_processes([pending.order for pending in taken])
        # After the fetch, which waits for these steps. Before it, this would measure
        # how fast the host dispatches them.
        speed = self.speed(taken[-1].step)
        return [
            {"step": pending.step, "epoch": pending.step // self._steps_per_epoch}
            | {
                name: float(value)
                for name, value in metrics._asdict().items()
                if value is not None
            }
            | {"order": f"{order:016x}"}
            | speed
            for pending, metrics, order in zip(taken, values, orders, strict=True)
        ]

    def _append(self, path: Path, lines: list[Line], group: str) -> None:
        """Writes lines to a file, and the numbers of the last one to TensorBoard."""
        if not self._writes:
            return
        with writing(path), path.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        if self._board is not None:
            self._board.add(lines[-1], group)


def read(path: Path) -> list[Line]:
    """Returns the lines of a metrics file, without a last one that was cut off."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def summary(line: Line) -> str:
    """Returns the loss and its terms or, of a classifier, the accuracy, to print."""
    if "accuracy" in line:
        return f"loss {line['loss']:.3f} accuracy {100 * line['accuracy']:.1f}%"
    parts = [f"loss {line['loss']:.2f}"]
    for prefix in ("", "local_"):
        if prefix + "invariance" in line:
            terms = (line[prefix + term] for term in _TERMS)
            values = "inv {:.3f} var {:.3f} cov {:.3f}".format(*terms)
            parts.append(prefix.replace("_", " ") + values)
    return " ".join(parts)


def _keep(path: Path, wanted: Callable[[Line], bool]) -> None:
    # Even if all lines are wanted, this removes a last one that was cut off, to which
    # the next line would be appended.
    lines = [line for line in read(path) if wanted(line)]
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))


def _check_finite(line: Line) -> None:
    found = [name for name in _MUST_BE_FINITE if name in line]
    broken = [name for name in found if not math.isfinite(line[name])]
    if broken:
        raise FloatingPointError(
            f"the {broken[0].replace('_', ' ')} is no longer finite at step "
            f"{line['step']}: {summary(line)}, gradient norm "
            f"{line['gradient_norm']:.3g}; lower --learning-rate"
        )


def _over_processes(orders: list[int]) -> list[int]:
    """Returns the hashes of global batches: sums over processes, modulo 2**64."""
    if jax.process_count() == 1:
        return orders
    # JAX has no 64-bit numbers by default, so they are sent as halves.
    halves = np.array(orders, np.uint64).view(np.uint32)
    parts = np.asarray(multihost_utils.process_allgather(halves)).view(np.uint64)
    return parts.sum(axis=0, dtype=np.uint64).tolist()
