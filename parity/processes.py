"""Python processes of our own, which do not outlive what they are for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def free_address() -> str:
    """Returns an address on this machine alone where processes can meet."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def run(commands: list[list[str]], folder: Path, seconds: float, **environment) -> None:
    """Runs modules of this project at the same time, until the last one is done.

    Args:
        commands: module and arguments of each.
        folder: for what they print.
        seconds: that they may take.
        **environment: variables that they get beside those of this process.

    Raises:
        RuntimeError: one failed; with what it printed. The others are ended.
        TimeoutError: they took too long, and were ended.
    """
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    variables = os.environ | {"PYTHONPATH": path} | environment
    logs = [folder / f"log{i}" for i in range(len(commands))]
    started: list[subprocess.Popen] = []
    try:
        for command, log in zip(commands, logs, strict=True):
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
            raise TimeoutError("processes that did not end in time were ended")
        time.sleep(0.05)
    _raise_if_failed(started, logs)


def _raise_if_failed(started: list[subprocess.Popen], logs: list[Path]) -> None:
    for process, log in zip(started, logs, strict=True):
        if process.poll():
            said = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"a process exited with {process.returncode}:\n{said}")
