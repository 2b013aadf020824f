"""The accuracies of a classifier's heads, and their table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from vicreg_jax.pretrain.records import Line
    from vicreg_jax.probe import Accuracies

_BEST = "best top-1"


def result(tests: list[Line]) -> Accuracies:
    """Returns the accuracies of the last epoch, and of the best, by head.

    Args:
        tests: The lines of evaluations.jsonl. Those of pretraining have no heads.
    """
    found: Accuracies = {}
    for name in tests[-1] if tests else ():
        accuracy, at, rate = name.partition(" at ")
        # The names "step" and "epoch" have no rate.
        if at:
            found.setdefault(f"lr {rate}", {})[accuracy] = tests[-1][name]
    for head, accuracies in found.items():
        accuracies[_BEST] = max(line[top1(head)] for line in tests)
    return found


def table(tests: list[Line]) -> Table | None:
    """Returns the result in percent as a table to print, or None without heads."""
    found = result(tests)
    if not found:
        return None
    columns = next(iter(found.values()))
    printed = Table("head", *columns, title="Accuracy on held-out images, %")
    for head, accuracies in found.items():
        *last, best = (f"{100 * value:.1f}" for value in accuracies.values())
        name = top1(head)
        epoch = next(t["epoch"] for t in tests if t[name] == accuracies[_BEST])
        printed.add_row(head, *last, f"{best} (epoch {epoch})")
    return printed


def top1(head: str) -> str:
    """Returns the name of a head's top-1 accuracy in evaluations.jsonl."""
    return f"top-1 at {head.removeprefix('lr ')}"
