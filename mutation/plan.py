"""Which tests should see a fault in which module, and which faults none can see."""

from __future__ import annotations

_DOCTESTS = ("vicreg_jax/_loss.py", "vicreg_jax/_terms.py")
_EVERY_FUNCTION = "tests/test_devices.py::test_every_public_function"
_VALUES = (*_DOCTESTS, "tests/test_export.py", "tests/test_values.py")
# Those that end sooner stand first. What they miss, the rest of the tests may see.
TESTS: dict[str, tuple[str, ...]] = {
    "_check.py": ("tests/test_errors.py", "tests/test_export.py", *_DOCTESTS),
    "_diagnostics.py": (
        "tests/test_diagnostics.py",
        "vicreg_jax/_diagnostics.py",
        "tests/test_errors.py",
        "tests/test_transforms.py::test_without_rank_promotion",
        _EVERY_FUNCTION,
    ),
    "_loss.py": (
        "tests/test_conventions.py",
        *_DOCTESTS,
        "tests/test_errors.py",
        "tests/test_transforms.py",
        "tests/test_export.py",
        _EVERY_FUNCTION,
    ),
    "_terms.py": (
        *_VALUES,
        "tests/test_errors.py",
        "tests/test_transforms.py",
        _EVERY_FUNCTION,
    ),
    "_moments.py": (*_VALUES, "tests/test_transforms.py", "tests/test_devices.py"),
    "_rows.py": (
        *_DOCTESTS,
        "tests/test_errors.py",
        "tests/test_export.py",
        "tests/test_devices.py",
        "tests/test_transforms.py",
    ),
    "conventions.py": ("tests/test_conventions.py", "vicreg_jax/conventions.py"),
    "optim.py": ("tests/test_optim.py", "vicreg_jax/optim.py"),
}

# Faults that change no result, each with the reason: (file, before, after) as printed.
EQUIVALENT: dict[tuple[str, str, str], str] = {}
