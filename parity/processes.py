"""Runs Python processes and ends them all when one fails."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def free_address() -> str:
    """Returns a free address on the loopback where processes can meet."""
    # The port is closed again here, so another process may take it before it is used.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def run(
    commands: list[list[str]], directory: Path, seconds: float, **environment
) -> None:
    """Runs modules of this project at the same time and waits for all of them.

    Args:
        commands: Module and arguments of each process.
        directory: Directory for their output.
        seconds: Time limit.
        **environment: Additional environment variables.

    Raises:
        RuntimeError: A process failed. The message has its output. The others are
            ended.
        TimeoutError: The time limit was reached. All processes are ended.
    """
    # `parity` is in no wheel: only the root of the repository makes it importable.
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    variables = os.environ | {"PYTHONPATH": path} | environment
    logs = [directory / f"log{i}" for i in range(len(commands))]
    started: list[subprocess.Popen] = []
    try:
        for command, log in zip(commands, logs, strict=True):
            # A file, since a process would block on a full pipe that nobody reads.
            with log.open("wb") as out:
                arguments = [sys.executable, "-m", *command]
                started.append(
                    subprocess.Popen(
                        arguments, stdout=out, stderr=subprocess.STDOUT, env=variables
                    )
                )
        _wait(started, logs, time.monotonic() + seconds)
    finally:
        for process in started:
            process.kill()
            process.wait()


def _wait(started: list[subprocess.Popen], logs: list[Path], deadline: float) -> None:
    while any(process.poll() is None for process in started):
        _raise_if_failed(started, logs)
        if time.monotonic() > deadline:
            raise TimeoutError("the processes did not end in time and were ended")
        time.sleep(0.05)
    _raise_if_failed(started, logs)


def _raise_if_failed(started: list[subprocess.Popen], logs: list[Path]) -> None:
    for process, log in zip(started, logs, strict=True):
        if process.poll():
            end = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"a process exited with {process.returncode}:\n{end}")
