"""The command line: `vicreg-pretrain`, or `python -m vicreg_jax.pretrain`.

    vicreg-pretrain [RECIPE] [views:digits|views:images] [FLAG ...]
                                         pretrain; the same command resumes a run
    vicreg-pretrain export RUN           write the encoder of a run to files
    vicreg-pretrain probe RUN            evaluate the features of a run with probes
    vicreg-pretrain embed ENCODER --data DATA
                                         write features; ENCODER: a run or a file
    vicreg-pretrain report RUN           draw the picture of a run again

Exit status: 0 when done; 2 for an error that the user can correct, whose message is one
line; 75 when SIGTERM or SIGINT stopped the run after it saved its state, which is BSD's
"temporary failure", so that schedulers may requeue it; 1 for a lost process, and for
any other error, which shows its traceback.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import jax
import tyro

from vicreg_jax.pretrain.commands import (
    KINDS,
    CommandLine,
    Pretrain,
    names,
    recipe_runs,
    subcommands,
)
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.processes import Interrupted

STOPPED = 75
_PROG = "vicreg-pretrain"


def main() -> None:
    """Runs what the command line asks for; see above for the exit status."""
    try:
        line = parse(sys.argv[1:])
        if line.version:
            print(importlib.metadata.version("vicreg_jax"))
        else:
            line.command.run()
    except Interrupted as interrupted:
        _say(f"{interrupted}; the same command resumes the run")
        sys.exit(STOPPED)
    except (UsageError, OSError, FloatingPointError) as error:
        _say(error)
        _exit(2)
    except Exception as error:
        if not jax.distributed.is_initialized():
            raise
        if isinstance(error, jax.errors.JaxRuntimeError):
            _say(error)  # most likely a process was lost, and its own error says why
        else:
            traceback.print_exc()
        _exit(1)


def parse(arguments: Sequence[str]) -> CommandLine:
    """Returns what the command line asks for.

    If it names no recipe, the one that --data names is taken, or else mnist. A word of
    `KINDS` replaces the recipe's views.

    Raises:
        UsageError: If a setting is out of range.
        SystemExit: After printing help, or an error about an unknown word.
    """
    # The kind of views decides which flags there are, before tyro reads any.
    kind = next((word for word in arguments if word in KINDS), None)
    arguments = [word for word in arguments if word != kind]
    runs = recipe_runs(kind)
    try:
        line = _parse(arguments, runs, default="mnist")
        # The default recipe depends on a flag, so tyro has to read the flags first.
        if isinstance(line.command, Pretrain) and line.command.config.data in runs:
            line = _parse(arguments, runs, default=line.command.config.data)
        return line
    except SystemExit:
        _suggest(arguments)
        raise


def _parse(
    arguments: Sequence[str], runs: dict[str, Pretrain], default: str
) -> CommandLine:
    return tyro.cli(
        CommandLine[subcommands(runs)],
        prog=_PROG,
        args=arguments,
        default=CommandLine(runs[default]),
        config=(
            tyro.conf.CascadeSubcommandArgs,
            tyro.conf.PositionalMetavarFromFieldName,
        ),
    )


def _suggest(arguments: Sequence[str]) -> None:
    """Prints the nearest recipe or command; tyro suggests flags only."""
    word = next(iter(arguments), "-")
    if not word.startswith("-") and word not in names():
        for near in difflib.get_close_matches(word, names(), n=1):
            _say(f"unknown recipe or command {word!r}; did you mean {near!r}?")


def _exit(status: int) -> NoReturn:
    """Ends the process, without waiting for other processes that may be lost."""
    if jax.distributed.is_initialized():
        os._exit(status)
    sys.exit(status)


def _say(what: object) -> None:
    """Prints to stderr, which may be a file on the disk that is full."""
    with contextlib.suppress(OSError):
        print(f"{_PROG}: {what}", file=sys.stderr, flush=True)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
