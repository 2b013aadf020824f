"""What TensorBoard shows, written by whoever calls: a full disk is the caller's error.

tensorboardX's SummaryWriter leaves the writing to a thread. Once that has failed, its
queue fills and the next call never returns.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.summary import scalar

from vicreg_jax.pretrain.folder import writing

if TYPE_CHECKING:
    from collections.abc import Mapping


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
