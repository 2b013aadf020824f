"""The command line: `vicreg-pretrain`, or `python -m vicreg_jax.pretrain`.

    vicreg-pretrain [RECIPE] [views:digits|views:images] [FLAG ...]
                                         pretrain; the same command resumes a run
    vicreg-pretrain --data FOLDER [FLAG ...]
                                         pretrain on your own images
    vicreg-pretrain export RUN           write the encoder of a run to files
    vicreg-pretrain probe RUN            evaluate the features of a run with probes
    vicreg-pretrain linear RUN           train a linear classifier on the frozen encoder
    vicreg-pretrain finetune RUN --labels 1%
                                         train encoder and classifier on few labels
    vicreg-pretrain embed ENCODER --data DATA
                                         write features; ENCODER: a run or a file;
                                         --neighbors 8 draws those of some images,
                                         or of --query FILE ...
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
import io
import os
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import jax
import tyro
from rich.text import Text

from vicreg_jax.pretrain import recipes
from vicreg_jax.pretrain.commands import (
    IMAGES,
    KINDS,
    CommandLine,
    Pretrain,
    names,
    recipe_runs,
    subcommands,
)
from vicreg_jax.pretrain.config import Config
from vicreg_jax.pretrain.errors import UsageError, flag
from vicreg_jax.pretrain.ignored import refuse_ignored
from vicreg_jax.pretrain.names import NAMED
from vicreg_jax.pretrain.processes import Interrupted

STOPPED = 75
_PROG = "vicreg-pretrain"
_HELP = {"--help", "-h", "--version"}
_ENCODERS = get_args(get_type_hints(Config)["encoder"])


def main() -> None:
    """Runs what the command line asks for; see above for the exit status."""
    try:
        line = parse(sys.argv[1:])
        if line.version:
            print(importlib.metadata.version("vicreg_jax"))
        else:
            line.command.run()
    except Interrupted as interrupted:
        # All processes stop after the same step, so none waits long for the others.
        _say(f"{interrupted}; the same command resumes the run")
        sys.exit(STOPPED)
    except Exception as error:
        if _correctable(error):
            _say(error)
            _exit(2)
        if not jax.distributed.is_initialized():
            raise
        if isinstance(error, jax.errors.JaxRuntimeError):
            _say(error)  # most likely a process was lost, and its own error says why
        else:
            traceback.print_exc()
        _exit(1)


def parse(arguments: Sequence[str]) -> CommandLine:
    """Returns what the command line asks for.

    If it names no recipe, the one that --data names is taken: `images` for a path, and
    mnist without --data. A word of `KINDS` replaces the recipe's views.

    Raises:
        UsageError: If a word is unknown, or a setting out of range or without effect.
        OSError: If the recipe `images` cannot open its images.
        SystemExit: After printing help.
    """
    # The kind of views decides which flags there are, before tyro reads any.
    kind = next((word for word in arguments if word in KINDS), None)
    arguments = [word for word in arguments if word != kind]
    deciding = _deciding(arguments)
    recipe = _recipe(arguments, deciding.data)
    images = None
    if recipe == IMAGES and not _HELP.intersection(arguments):
        images = _images(deciding)
    elif recipe == IMAGES and deciding.data:
        # The defaults that --help shows are those for these images, if they are there.
        with contextlib.suppress(UsageError, OSError):
            images = _images(deciding)
    runs = recipe_runs(kind, images)
    errors = io.StringIO()
    try:
        # tyro prints its errors, and hands them to nothing but a private hook.
        with contextlib.redirect_stderr(errors):
            return _checked(_parse(arguments, runs, recipe), runs)
    except SystemExit as ended:
        if not ended.code:
            raise
    word = next(iter(arguments), "-")
    shown = f"{_PROG} {word if word in names() else recipe} --help"
    raise UsageError(_unknown_word(arguments) or _one_line(errors.getvalue(), shown))


@dataclass(frozen=True)
class _Deciding:
    """The flags that the defaults of other settings depend on, as they are typed."""

    data: str | None = None
    size: str | None = None
    channels: str | None = None
    encoder: str | None = None


def _deciding(arguments: Sequence[str]) -> _Deciding:
    # A pass of its own, because tyro has to know all defaults before it reads a flag.
    # tyro's own flags, which print completions of a shell, are for the other pass. So
    # are errors: not every command has these flags.
    others = [word for word in arguments if not word.startswith("--tyro-")]
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        found, _ = tyro.cli(
            _Deciding, args=others, return_unknown_args=True, add_help=False
        )
        return found
    return _Deciding()


def _recipe(arguments: Sequence[str], data: str | None) -> str:
    """Returns the recipe that is named, or else the one for the data."""
    word = next(iter(arguments), "-")
    if word == IMAGES:
        return IMAGES
    if not word.startswith("-") or data is None:
        return "mnist"
    # Not every recipe is the name of images: cifar may be a folder.
    return data if data in recipes.RECIPES and data in NAMED else IMAGES


def _images(deciding: _Deciding) -> Config:
    if deciding.data is None:
        raise UsageError("--data must be given with the recipe images, got none")
    # Values that tyro will refuse are left to its message.
    chosen: dict[str, Any] = {}
    for name in ("size", "channels"):
        if value := getattr(deciding, name):
            with contextlib.suppress(ValueError):
                chosen[name] = int(value)
    if deciding.encoder in _ENCODERS:
        chosen["encoder"] = deciding.encoder
    return recipes.images(deciding.data, **chosen)


def _parse(
    arguments: Sequence[str], runs: dict[str, Pretrain], recipe: str
) -> CommandLine:
    return tyro.cli(
        CommandLine[subcommands(runs)],
        prog=_PROG,
        args=arguments,
        default=CommandLine(runs[recipe]),
        config=(
            # So that flags without a recipe select the default one.
            tyro.conf.CascadeSubcommandArgs,
            tyro.conf.PositionalMetavarFromFieldName,
        ),
    )


def _checked(line: CommandLine, runs: dict[str, Pretrain]) -> CommandLine:
    """Returns the command line, unless it has a flag without effect."""
    command = line.command
    if isinstance(command, Pretrain):
        recipe = command.launch.recipe or "mnist"
        refuse_ignored(command.config, runs[recipe].config)
    return line


def _unknown_word(arguments: Sequence[str]) -> str | None:
    """Returns an error with the nearest recipe or command; tyro suggests flags only."""
    word = next(iter(arguments), "-")
    if word.startswith("-") or word in names():
        return None
    if Path(word, "config.json").exists():
        return f"{word} is a run: give a command before it, such as report {word}"
    if Path(word).exists():
        return f"{word} is a path: give it as --data {word}"
    near = difflib.get_close_matches(word, names(), n=1)
    return _with_hint(f"unknown recipe or command {word!r}", near, f"{_PROG} --help")


def _one_line(box: str, shown: str) -> str:
    """Returns an error of tyro, a box of several lines, as one line.

    Args:
        box: What tyro printed.
        shown: The command that lists the flags.
    """
    lines = Text.from_ansi(box).plain.splitlines()[1:-1]
    # The frame is of ASCII characters if stdout is not UTF-8.
    text = " ".join(line.strip(" │|") for line in lines)
    # After a rule or an empty line come explanations, suggestions and the help.
    text = re.sub(r"^(?:─|-){3,} ", "", text)
    message = re.split(r" (?:─|-){3,} |  ", text)[0].rstrip(".")
    near = re.findall(r"(?:meant|similar to \S+): (--[\w.-]+)", text)
    # tyro's suggestion for a flag of another command is the same flag.
    near = [] if "misplaced" in message else near[:1]
    # Views check their settings when they are made, of which tyro knows the place only.
    if setting := re.match(r"Error parsing [\w.]*\b(views[\w.]*): `(\w+)`", message):
        message = flag(".".join(setting.groups())) + message[setting.end() :]
    return _with_hint(message, near, shown)


def _with_hint(message: str, near: Sequence[str], shown: str) -> str:
    hint = f"; did you mean {near[0]!r}? See" if near else "; see"
    return f"{message}{hint} {shown}"


def _correctable(error: Exception) -> bool:
    """Returns whether the user can correct an error, and its message says how.

    An error of the operating system must name a file, such as one that is missing. An
    OSError without a number is raised in Python, and its message names the file.
    """
    if isinstance(error, OSError):
        return error.errno is None or error.filename is not None
    return isinstance(error, (UsageError, FloatingPointError))


def _exit(status: int) -> NoReturn:
    """Ends the process, without waiting for other processes that may be lost."""
    if jax.distributed.is_initialized():
        # An ordinary exit waits in JAX's shutdown barrier, for minutes.
        os._exit(status)
    sys.exit(status)


def _say(what: object) -> None:
    """Prints to stderr, which may be a file on the disk that is full."""
    with contextlib.suppress(OSError):
        print(f"{_PROG}: {what}", file=sys.stderr, flush=True)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
