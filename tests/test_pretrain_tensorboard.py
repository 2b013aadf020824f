"""TensorBoard's files: read back record by record, and on a full disk."""

import resource
import struct
from contextlib import contextmanager

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from vicreg_jax.pretrain.records import Board


def events(directory):
    """Returns the events of the one file in a directory, without its version.

    TFRecord: the length in 8 bytes, its checksum in 4, the record, its checksum in 4.
    """
    (path,) = directory.iterdir()
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    assert found[0].file_version == "brain.Event:2"
    return found[1:]


@contextmanager
def no_room():
    """No file may grow in this context."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_numbers_by_name_and_step(tmp_path):
    board = Board(tmp_path / "board", first=0)
    board.add({"step": 3, "loss": 1.5, "order": "00ff"})
    board.add({"step": 7, "loss": 0.25})
    board.flush()
    shown = [
        (event.step, value.tag, value.simple_value)
        for event in events(tmp_path / "board")
        for value in event.summary.value
    ]
    assert shown == [(3, "loss", 1.5), (7, "loss", 0.25)]
    board.close()


def test_going_on_hides_what_came_later(tmp_path):
    Board(tmp_path, first=4).close()
    (event,) = events(tmp_path)
    assert (event.step, event.session_log.status) == (4, SessionLog.START)


def test_no_room_is_an_error_at_once(tmp_path):
    board = Board(tmp_path, first=0)
    board.flush()
    with no_room(), pytest.raises(OSError, match="could not be written: File too larg"):
        for step in range(1000):
            board.add({"step": step, "loss": 1.0})
    board.close()
