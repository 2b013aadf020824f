"""Checks of the settings of views. Each raises a ValueError that names the setting."""

from __future__ import annotations

import math

# The smallest positive float, so that "at least" means "above 0".
TINY = math.ulp(0.0)


def check_between(
    name: str, value: float | tuple[float, ...], least: float, most: float, what: str
) -> None:
    """Refuses a number outside of [least, most], or a tuple that contains one."""
    values = value if isinstance(value, tuple) else (value,)
    if not all(least <= v <= most for v in values):
        raise ValueError(f"`{name}` must be {what}, got {value}")


def check_not_negative(name: str, value: float) -> None:
    """Refuses a negative number."""
    check_between(name, value, 0, math.inf, "a number of at least 0")


def check_center(value: float) -> None:
    """Refuses a side that is not a fraction of an image's shorter side."""
    check_between("center", value, TINY, 1, "above 0 and at most 1")


def check_size(name: str, value: int) -> None:
    """Refuses a number of pixels or of knots below 1."""
    check_between(name, value, 1, math.inf, "at least 1")


def check_range(name: str, value: tuple[float, float], most: float) -> None:
    """Refuses a pair that is not a range of positive numbers up to `most`."""
    least, largest = value
    if not 0 < least <= largest <= most:
        limit = "" if math.isinf(most) else f" <= {most}"
        raise ValueError(
            f"`{name}` must be (smallest, largest) with 0 < smallest <= largest{limit},"
            f" got {least, largest}"
        )
