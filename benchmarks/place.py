"""Where contenders run, and the error of one that cannot."""

from __future__ import annotations

from typing import NamedTuple


class NotAvailable(Exception):
    """Says why a contender cannot take part."""


class Place(NamedTuple):
    """The device that contenders run on, as each framework names it.

    Attributes:
        jax: "cpu" or "gpu"; the first device of that platform.
        torch: "cpu" or "cuda". None: PyTorch cannot take part here.
    """

    jax: str
    torch: str | None
