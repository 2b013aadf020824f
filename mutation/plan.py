"""Which tests should see a fault in which module, and which faults none can see."""

from __future__ import annotations

from pathlib import Path

_DOCTESTS = ("vicreg_jax/_loss.py", "vicreg_jax/_terms.py")
_EVERY_FUNCTION = "tests/test_devices.py::test_every_public_function"
_VALUES = (*_DOCTESTS, "tests/test_export.py", "tests/test_values.py")
_ERRORS_OF_VIEWS = (
    "tests/test_multiview.py::test_errors_name_the_argument",
    "tests/test_local.py::test_errors_name_the_argument",
    "tests/test_local.py::test_errors_of_the_whole",
)
_HALF = "tests/test_values.py::test_gradients_are_added_before_they_are_rounded"
_LARGE = "tests/test_values.py::test_sizes_whose_product_needs_more_than_32_bits"
_REFERENCE = "tests/test_values.py::test_float64_equals_both_references"
_SETTINGS = "tests/test_transforms.py::test_settings_of_any_dtype"
_COMPILED_ONCE = "tests/test_transforms.py::test_one_program_compiled_once"
# Those that end sooner stand first. What they miss, the rest of the tests may see.
TESTS: dict[str, tuple[str, ...]] = {
    "_check.py": (
        "tests/test_errors.py",
        *_ERRORS_OF_VIEWS,
        "tests/test_conventions.py",
        _SETTINGS,
        _COMPILED_ONCE,
        _HALF,
        "tests/test_export.py",
        "tests/test_multiview.py",
    ),
    "_diagnostics.py": (
        "tests/test_diagnostics.py",
        "vicreg_jax/_diagnostics.py",
        "tests/test_errors.py",
        "tests/test_transforms.py::test_without_rank_promotion",
        "tests/test_transforms.py::test_each_function_is_one_program",
        "tests/test_transforms.py::test_nothing_is_called_inside_a_program",
        _EVERY_FUNCTION,
    ),
    "_loss.py": (
        "tests/test_conventions.py",
        *_DOCTESTS,
        "tests/test_errors.py",
        _HALF,
        _REFERENCE,
        "tests/test_transforms.py",
        "tests/test_export.py",
        "tests/test_multiview.py",
        _EVERY_FUNCTION,
    ),
    "_terms.py": (
        *_VALUES,
        "tests/test_errors.py",
        "tests/test_transforms.py",
        _EVERY_FUNCTION,
    ),
    "_multiview.py": (
        "vicreg_jax/_multiview.py",
        *_DOCTESTS,
        "tests/test_multiview.py",
        _HALF,
        _REFERENCE,
        "tests/test_transforms.py",
        _EVERY_FUNCTION,
    ),
    "_moments.py": (*_VALUES, "tests/test_transforms.py", "tests/test_devices.py"),
    "_rows.py": (
        *_DOCTESTS,
        "tests/test_errors.py",
        "tests/test_export.py",
        _LARGE,
        "tests/test_devices.py",
        "tests/test_transforms.py",
    ),
    "conventions.py": (
        "tests/test_conventions.py",
        "vicreg_jax/conventions.py",
        "tests/test_local.py::test_conventions",
        "tests/test_local.py::test_lightly_with_its_global_loss_and_local_crops",
    ),
    "optim.py": ("tests/test_optim.py", "vicreg_jax/optim.py"),
}


def equivalent() -> dict[tuple[str, str, str], str]:
    """Returns why no test can see a fault, by its file and the lines before and after.

    Each entry of `equivalent.txt` is for the one fault that it spells out.
    """
    text = (Path(__file__).parent / "equivalent.txt").read_text()
    found = {}
    for entry in text.split("\n\n")[1:]:
        file, before, after, reason = entry.strip().splitlines()
        found[file, before.removeprefix("- "), after.removeprefix("+ ")] = reason
    return found
