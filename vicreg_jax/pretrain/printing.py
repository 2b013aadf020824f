"""Lines on the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def print_line(console: Console, text: str | Text) -> None:
    """Prints text that may name files, whatever their length and characters.

    By itself, rich takes brackets for markup, and breaks lines at the width of the
    console, which is 80 where there is no terminal.

    Args:
        console: Where to print.
        text: One line, or more.
    """
    console.print(text, soft_wrap=True, markup=False, highlight=False)
