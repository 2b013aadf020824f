"""The command line: `vicreg-pretrain`, or `python -m vicreg_jax.pretrain`."""

from __future__ import annotations

import sys

import tyro
from rich.console import Console

from vicreg_jax.pretrain.config import Config
from vicreg_jax.pretrain.loop import run
from vicreg_jax.pretrain.report import table


def main() -> None:
    """Runs what the command line says; exits with 2 where it can't."""
    console = Console()
    try:
        config = tyro.cli(Config, prog="vicreg-pretrain")
        accuracies = run(config, console)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"vicreg-pretrain: {error}", file=sys.stderr)
        sys.exit(2)
    console.print(table(accuracies, f"Accuracy on {config.evaluate_on} images, %"))


if __name__ == "__main__":
    main()
