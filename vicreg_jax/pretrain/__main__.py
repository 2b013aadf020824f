"""The command line: `vicreg-pretrain`, or `python -m vicreg_jax.pretrain`.

vicreg-pretrain [RECIPE] [views:digits|views:images] [FLAG ...]
                                     pretrains; the same command again goes on
vicreg-pretrain export RUN           writes the encoder of a run
vicreg-pretrain probe RUN            probes its features, on other images too
vicreg-pretrain report RUN           draws its picture again

It ends with 0 when all is done and with 2 where it can't. SIGTERM or SIGINT make it
save its state and end with 75, BSD's "temporary failure", after which schedulers may
requeue it. Where another process is lost it ends with 1, or is ended by JAX.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NoReturn

import jax
import tyro
from rich.console import Console

from vicreg_jax.augment import DigitViews, ImageViews
from vicreg_jax.pretrain.config import Config, Launch
from vicreg_jax.pretrain.processes import Interrupted, connect
from vicreg_jax.pretrain.recipes import RECIPES

STOPPED = 75
_PROG = "vicreg-pretrain"
# A word, not a flag, since it decides which flags there are: tyro makes them of the
# fields of the default views.
_KINDS = {"views:digits": DigitViews, "views:images": ImageViews}


@dataclass(frozen=True)
class Job:
    """A run and how it is carried out."""

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    launch: Annotated[Launch, tyro.conf.arg(name="")] = field(default_factory=Launch)


def main() -> None:
    """Does what the command line says; see above for how it ends."""
    try:
        _dispatch(sys.argv[1:])
    except Interrupted as interrupted:
        _say(f"{interrupted}; the same command goes on")
        sys.exit(STOPPED)
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        _leave(2, error)
    except jax.errors.JaxRuntimeError as error:
        _leave(1, error)


def _dispatch(arguments: Sequence[str]) -> None:
    commands = {"export": _export, "probe": _probe, "report": _report}
    if arguments and arguments[0] in commands:
        command = commands[arguments[0]]
        tyro.cli(command, prog=f"{_PROG} {arguments[0]}", args=arguments[1:])
    else:
        _train(arguments)


def _train(arguments: Sequence[str]) -> None:
    from vicreg_jax.pretrain import compile_only
    from vicreg_jax.pretrain.run import run

    job = parse(arguments)
    console = Console()
    if topology := job.launch.compile_only:
        report = compile_only.compile_only(job.config, topology, job.launch.mesh)
        console.print(compile_only.table(report, topology))
        return
    connect(job.launch)
    if jax.process_index() != 0:
        console.quiet = True
    _print(run(job.config, job.launch, console), job.config.evaluate_on, console)


def parse(arguments: Sequence[str]) -> Job:
    """Returns the job that the command line asks for.

    The recipe is the first argument, or the one that --data names, or mnist. Its views
    are replaced where an argument names another kind of them; see `_KINDS`.
    """
    named = [arguments[0]] if arguments and arguments[0] in RECIPES else []
    rest = [part for word in arguments[len(named) :] for part in _parts(word)]
    data = [b for a, b in zip(rest, rest[1:], strict=False) if a == "--data"]
    recipe = RECIPES[next((n for n in named + data if n in RECIPES), "mnist")]
    config = recipe()
    for word in filter(_KINDS.get, tuple(rest)):
        rest.remove(word)
        views = _KINDS[word](size=config.views.size)
        config = dataclasses.replace(config, views=views)
    return tyro.cli(
        Job,
        prog=f"{_PROG} [{'|'.join(RECIPES)}]",
        description=inspect.getdoc(recipe),
        default=Job(config),
        args=rest,
        config=(tyro.conf.AvoidSubcommands,),
    )


def _parts(word: str) -> list[str]:
    """Returns a flag and its value where they are one word."""
    return word.split("=", 1) if word.startswith("--data=") else [word]


def _export(run: tyro.conf.Positional[Path], /) -> None:
    """Writes the encoder of RUN as backbone.safetensors and, for Orbax, backbone/."""
    from vicreg_jax.pretrain.export import export

    for path in export(run):
        print(path)


def _probe(run: tyro.conf.Positional[Path], /, data: str | None = None) -> None:
    """Probes the features of RUN, of its own images or of others."""
    from vicreg_jax.pretrain.export import probe

    _print(probe(run, data=data), "test", Console())


def _report(run: tyro.conf.Positional[Path], /) -> None:
    """Draws report.png of RUN again, and prints its accuracies."""
    from vicreg_jax.pretrain.report import redraw

    _print(redraw(run), "held-out", Console())


def _print(accuracies, which, console) -> None:
    from vicreg_jax.pretrain.report import table

    if accuracies:
        console.print(table(accuracies, f"Probes on {which} images, %"))


def _leave(status: int, error: Exception) -> NoReturn:
    """Ends the process, without waiting for others that may be gone."""
    _say(error)
    if jax.distributed.is_initialized():
        os._exit(status)
    sys.exit(status)


def _say(what: object) -> None:
    """Prints to stderr, which may go to the very disk that is full."""
    with contextlib.suppress(OSError):
        print(f"{_PROG}: {what}", file=sys.stderr, flush=True)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
