"""One run of the tests on one mutant, in a process of its own."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TypeVar

import jax
import pytest

PACKAGE = Path(__file__).parents[1] / "vicreg_jax"
_SLOW_TO_IMPORT = (
    "beartype",
    "chex",
    "flax.nnx",
    "hypothesis",
    "jax.test_util",
    "jaxtyping",
    "optax",
    "torch",
)
# One process, no cache of pytest's, and no word on plugins that are imported already.
# Asserts stay plain: pytest would read the modules that it rewrites by itself.
_PYTEST = ["-x", "-q", "-n0", "-p", "no:cacheprovider", "--assert=plain"]
_PYTEST += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
_T = TypeVar("_T")


def prepare(cache: str) -> None:
    """Imports what the tests import and shares one cache of compiled programs.

    The cache is keyed by the program that a mutant makes, so that it cannot hide one.
    """
    os.environ["VICREG_JAX_TEST_CACHE"] = cache
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    for name in _SLOW_TO_IMPORT:
        importlib.import_module(name)
    # JAX warns of forks. None of its threads runs yet: they come with its backend.
    warnings.filterwarnings("ignore", ".*os.fork.*", RuntimeWarning)
    # Or pytest, which collects garbage often, would search all of it in each child.
    gc.freeze()


def start(
    file: str, source: str | None, tests: Sequence[str], seconds: int, log: Path
) -> int:
    """Starts the tests in a child process and returns its id.

    Args:
        file: Name of the module's file.
        source: What to run in the place of that module; None: the module as it is.
        tests: The arguments of pytest.
        seconds: How long it may take.
        log: File for what pytest prints.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.alarm(seconds)  # its default is to end the process
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if source is not None:
            _serve(PACKAGE / file, source.encode())
        status = pytest.main([*_PYTEST, *tests])
    except BaseException:
        traceback.print_exc()
    finally:
        # Nothing of the parent's is to be closed or printed twice.
        sys.stdout.flush()
        os._exit(int(status))


def _serve(module: Path, source: bytes) -> None:
    """Lets Python read `source` where it reads the file `module`."""
    read = SourceFileLoader.get_data
    compiled = module.parent / "__pycache__"

    def get_data(self: SourceFileLoader, path: str) -> bytes:
        wanted = Path(path)
        if wanted == module:
            return source
        if wanted.parent == compiled and wanted.name.startswith(f"{module.stem}."):
            raise OSError("compiled from the module as it is")
        return read(self, path)

    sys.dont_write_bytecode = True
    SourceFileLoader.get_data = get_data


def exit_status(child: int) -> int:
    """Waits for one child; not 0 if a test failed or it ran out of time."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ended(started: Iterable[tuple[_T, int]], jobs: int) -> Iterator[tuple[_T, int]]:
    """Yields each child that ended with its exit status, at most `jobs` at a time."""
    running: dict[int, _T] = {}

    def next_one() -> tuple[_T, int]:
        child, status = os.waitpid(-1, 0)
        return running.pop(child), os.waitstatus_to_exitcode(status)

    for what, child in started:
        running[child] = what
        if len(running) == jobs:
            yield next_one()
    while running:
        yield next_one()
