"""Names of images that are not paths."""

from __future__ import annotations

import re

NAMED = ("mnist", "digits", "elpv", "canvas", "canvas-test")
_CHECKSUM = 12  # hexadecimal digits


def of_arrays(sha256: str) -> str:
    """Returns the name of images that were given in Python, from their checksum."""
    return f"arrays-{sha256[:_CHECKSUM]}"


def is_name(data: str) -> bool:
    """Returns whether images have this name; otherwise it is a path."""
    return data in NAMED or bool(re.fullmatch(f"arrays-[0-9a-f]{{{_CHECKSUM}}}", data))
