"""TensorBoard's event files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.summary import scalar

from vicreg_jax.pretrain.run_folder import writing


class Board:
    """Scalars for TensorBoard, in a directory that is made if it does not exist.

    TensorBoard hides older values of the step `first` and later ones.

    Raises:
        OSError: Here and in all methods, if something cannot be written.
    """

    def __init__(self, directory: Path, *, first: int):
        self._directory = directory
        with writing(directory):
            directory.mkdir(exist_ok=True)
            # `SummaryWriter` would write in a thread. Once that has failed, its queue
            # fills, and the next call never returns.
            self._events = EventsWriter(str(directory / "events"))
        if first:
            self._add(first, session_log=SessionLog(status=SessionLog.START))

    def add(self, line: dict[str, Any], group: str) -> None:
        """Adds the numbers of a line at its step, with tags such as "train/loss"."""
        for name, value in line.items():
            if name != "step" and not isinstance(value, str):
                self._add(line["step"], summary=scalar(f"{group}/{name}", value))

    def flush(self) -> None:
        """Writes what was added to the disk."""
        with writing(self._directory):
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        with writing(self._directory):
            self._events.close()

    def _add(self, step: int, **what: Any) -> None:
        with writing(self._directory):
            self._events.write_event(Event(wall_time=time.time(), step=step, **what))
