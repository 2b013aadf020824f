"""Errors that the user can correct, and how they name flags."""

from __future__ import annotations


class UsageError(ValueError):
    """A flag, file or directory that the user can correct.

    The command line prints its message in one line. Other errors show their traceback.
    """


class MissingPackageError(UsageError, ModuleNotFoundError):
    """An optional package is not installed."""


def flag(field: str) -> str:
    """Returns the flag of a configuration's field, as it is typed.

    Example:
        >>> flag("learning_rate")
        '--learning-rate'
    """
    return f"--{field.replace('_', '-')}"


def of_file(error: ValueError, argument: str, path: object) -> UsageError:
    """Returns the error of a function that reads a file, for the command line.

    Args:
        error: The error, which may call the file `path`.
        argument: How the command line calls it.
        path: The file.
    """
    text, ours = str(error), "`path`"
    if ours in text:
        return UsageError(text.replace(ours, argument))
    return UsageError(f"{argument} {path}: {text}")


def check_at_least(name: str, value: float, least: float) -> None:
    """Checks the value of a field.

    Raises:
        UsageError: If it is below `least`.
    """
    # Not `value < least`, which is false of NaN.
    if not value >= least:
        raise UsageError(f"{flag(name)} must be at least {least}, got {value}")
