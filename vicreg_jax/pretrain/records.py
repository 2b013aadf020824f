"""What a run writes down while it goes on."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.summary import scalar

from vicreg_jax.pretrain.run_folder import write_whole, writing

if TYPE_CHECKING:
    from vicreg_jax.pretrain.step import Metrics

Line = dict[str, Any]
_TERMS = ("invariance", "variance", "covariance", "loss", "gradient_norm")


class _Pending(NamedTuple):
    step: int
    order: int
    metrics: Metrics


class Log:
    """Metrics of every step, fetched from the devices many steps at a time.

    Args:
        folder: of the run.
        steps_per_epoch: to name the epoch of a step.
        batch: images a step.
        first: the step to go on with; what was written for later ones is taken out.
        waited: seconds so far that the devices waited for images.
        tensorboard: write for TensorBoard as well.
    """

    def __init__(
        self,
        folder: Path,
        *,
        steps_per_epoch: int,
        batch: int,
        first: int,
        waited: Callable[[], float],
        tensorboard: bool,
    ):
        self._steps_per_epoch, self._batch, self._waited = (
            steps_per_epoch,
            batch,
            waited,
        )
        self._pending: list[_Pending] = []
        self._mark: tuple[int, float, float] | None = None
        self._writes = jax.process_index() == 0
        self._steps, self._checks = (
            folder / "metrics.jsonl",
            folder / "evaluations.jsonl",
        )
        self._board = None
        if not self._writes:
            return
        _keep(self._steps, lambda line: line["step"] < first)
        _keep(self._checks, lambda line: line["step"] <= first)
        if tensorboard:
            self._board = Board(folder / "tensorboard", first=first)

    def add(self, step: int, metrics: Metrics, order: int) -> None:
        """Takes note of a step that may still be computed.

        Args:
            step: its number.
            metrics: what it reports.
            order: hash of the images of this process.
        """
        self._pending.append(_Pending(step, order, metrics))

    def write(self, *, leave: int = 0) -> Line | None:
        """Writes down all steps but the newest `leave`, and returns the last of them.

        Raises:
            FloatingPointError: a loss or a gradient was not finite.
            OSError: a file could not be written; it is named.
        """
        count = len(self._pending) - leave
        taken, self._pending = self._pending[:count], self._pending[count:]
        if not taken:
            return None
        lines = self._lines(taken)
        self._append(self._steps, lines)
        for line in lines:
            _stop_unless_finite(line)
        self._show(lines[-1])
        if self._board is not None and not leave:
            self._board.flush()
        return lines[-1]

    def quick_check(self, line: Line) -> None:
        """Writes down a look at the features."""
        self._append(self._checks, [line])
        self._show(line)

    def close(self) -> None:
        """Ends the writing for TensorBoard."""
        if self._board is not None:
            self._board.close()

    def _lines(self, taken: list[_Pending]) -> list[Line]:
        values = jax.device_get([pending.metrics for pending in taken])
        orders = _of_all_processes([pending.order for pending in taken])
        speed = self._speed(taken[-1].step)
        return [
            {"step": pending.step, "epoch": pending.step // self._steps_per_epoch}
            | {name: float(value) for name, value in metrics._asdict().items()}
            | {"order": f"{order:016x}"}
            | speed
            for pending, metrics, order in zip(taken, values, orders, strict=True)
        ]

    def _speed(self, step: int) -> Line:
        """Returns the speed since the last time, which is not known the first."""
        now, waited, mark = time.monotonic(), self._waited(), self._mark
        self._mark = step, now, waited
        if mark is None or step == mark[0]:
            return {}
        seconds = now - mark[1]
        return {
            "images_per_second": (step - mark[0]) * self._batch / seconds,
            "waiting": (waited - mark[2]) / seconds,
        }

    def _append(self, path: Path, lines: list[Line]) -> None:
        if self._writes:
            with writing(path), path.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)

    def _show(self, line: Line) -> None:
        if self._board is not None:
            self._board.add(line)


def read(path: Path) -> list[Line]:
    """Returns the lines of a file, without one that was cut short at the end."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def summary(line: Line) -> str:
    """Returns the loss and its terms, to print."""
    return (
        f"loss {line['loss']:.2f} inv {line['invariance']:.3f} "
        f"var {line['variance']:.3f} cov {line['covariance']:.3f}"
    )


def _stop_unless_finite(line: Line) -> None:
    broken = [name for name in _TERMS if not math.isfinite(line[name])]
    if broken:
        raise FloatingPointError(
            f"the {broken[0].replace('_', ' ')} is no longer finite at step "
            f"{line['step']}: {summary(line)}, gradient norm "
            f"{line['gradient_norm']:.3g}; lower --learning-rate"
        )


def _of_all_processes(orders: list[int]) -> list[int]:
    """Returns the hashes of whole batches: sums over processes, modulo 2**64."""
    if jax.process_count() == 1:
        return orders
    # JAX has no 64 bits by default, so that they travel as halves.
    halves = np.array(orders, np.uint64).view(np.uint32)
    parts = np.asarray(multihost_utils.process_allgather(halves)).view(np.uint64)
    return parts.sum(axis=0, dtype=np.uint64).tolist()


def _keep(path: Path, wanted: Callable[[Line], bool]) -> None:
    """Takes out the lines that are not `wanted`, in one go."""
    lines = [line for line in read(path) if wanted(line)]
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))


class Board:
    """Scalars by step.

    Args:
        folder: where TensorBoard looks; made if need be.
        first: the step to go on with; what was written for later ones is hidden.

    Raises:
        OSError: here and below, if something could not be written.
    """

    def __init__(self, folder: Path, *, first: int):
        self._folder = folder
        with writing(folder):
            folder.mkdir(exist_ok=True)
            self._events = EventsWriter(str(folder / "events"))
        if first:
            self._add(first, session_log=SessionLog(status=SessionLog.START))

    def add(self, line: Mapping[str, Any]) -> None:
        """Adds the numbers of a line to its step, by name."""
        for name, value in line.items():
            if name != "step" and not isinstance(value, str):
                self._add(line["step"], summary=scalar(name, value))

    def flush(self) -> None:
        """Brings to the disk what was added."""
        with writing(self._folder):
            self._events.flush()

    def close(self) -> None:
        """Does so for the last time."""
        with writing(self._folder):
            self._events.close()

    def _add(self, step: int, **what: Any) -> None:
        with writing(self._folder):
            self._events.write_event(Event(wall_time=time.time(), step=step, **what))
