"""TensorBoard's event files, read back record by record, also on a full disk."""

import resource
import shutil
import struct
from contextlib import contextmanager

import numpy as np
import pytest
from runs import log
from tensorboardX.proto.event_pb2 import Event, SessionLog

from vicreg_jax.pretrain.step import Metrics
from vicreg_jax.pretrain.tensorboard import Board


def events(directory):
    """Returns the events of the one file in a directory, without its version.

    TFRecord: the length in 8 bytes, its checksum in 4, the record, its checksum in 4.
    """
    (path,) = directory.iterdir()
    return in_file(path)


def in_file(path):
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    assert found[0].file_version == "brain.Event:2"
    return found[1:]


def scalars(directory):
    """Returns step, tag and value of every scalar in the files of a directory."""
    return [
        (event.step, value.tag, value.simple_value)
        for path in sorted(directory.iterdir())
        for event in in_file(path)
        for value in event.summary.value
    ]


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
    board.add({"step": 3, "loss": 1.5, "order": "00ff"}, "train")
    board.add({"step": 7, "k-NN": 0.25}, "check")
    board.flush()
    assert scalars(tmp_path / "board") == [
        (3, "train/loss", 1.5),
        (7, "check/k-NN", 0.25),
    ]
    board.close()


def test_steps_and_quick_checks_share_no_tag_and_never_go_back(tmp_path):
    written = log(tmp_path, tensorboard=True)
    for step in range(6):
        written.add(step, Metrics(*[np.float32(step)] * 7), order=0)
        if step % 2:
            written.quick_check({"step": step + 1, "covariance": 100.0})
        else:
            written.write(leave=1)
    written.write()
    written.close()
    shown = scalars(tmp_path / "tensorboard")
    steps = [step for step, _, _ in shown]
    assert steps == sorted(steps) and steps[-1] == 6
    covariance = {tag: [] for _, tag, _ in shown if tag.endswith("/covariance")}
    for step, tag, value in shown:
        if tag in covariance:
            covariance[tag].append((step, value))
    assert covariance == {
        "train/covariance": [(1, 1.0), (3, 3.0), (5, 5.0)],
        "check/covariance": [(2, 100.0), (4, 100.0), (6, 100.0)],
    }


def test_going_on_shows_the_check_of_where_it_starts(tmp_path):
    written = log(tmp_path, tensorboard=True)
    for step in (2, 4):
        written.quick_check({"step": step, "covariance": float(step)})
    written.close()
    for first, shown in ((2, [(2, "check/covariance", 2.0)]), (3, [])):
        shutil.rmtree(tmp_path / "tensorboard")
        log(tmp_path, first=first, tensorboard=True).close()
        assert scalars(tmp_path / "tensorboard") == shown


def test_going_on_hides_what_came_later(tmp_path):
    Board(tmp_path, first=4).close()
    (event,) = events(tmp_path)
    assert (event.step, event.session_log.status) == (4, SessionLog.START)


def test_no_room_is_an_error_at_once(tmp_path):
    board = Board(tmp_path, first=0)
    board.flush()
    with no_room(), pytest.raises(OSError, match="could not be written: File too larg"):
        for step in range(1000):
            board.add({"step": step, "loss": 1.0}, "train")
    board.close()
