"""Stops the build if a public name has no entry in the API pages.

`sphinx.ext.coverage` skips names that a package re-exports, which here are most.
"""

import importlib
import inspect
import pkgutil

from sphinx.errors import ExtensionError

import vicreg_jax


def public_names():
    """Yields the full names that users import.

    They are those of the modules directly in the package, and of every `__all__` deeper
    in it. The other modules of a subpackage are its own business.
    """
    yield from _names(vicreg_jax)
    for found in pkgutil.walk_packages(vicreg_jax.__path__, "vicreg_jax."):
        if "._" in found.name:
            continue
        module = importlib.import_module(found.name)
        if hasattr(module, "__all__") or found.name.count(".") == 1:
            yield from _names(module)


def _names(module):
    for name in getattr(module, "__all__", vars(module)):
        value = getattr(module, name)
        own = (
            hasattr(module, "__all__")
            or (inspect.isroutine(value) or inspect.isclass(value))
            and value.__module__ == module.__name__
        )
        if own and not name.startswith("_") and not inspect.ismodule(value):
            yield f"{module.__name__}.{name}"


def _check(app, env):
    missing = sorted(set(public_names()) - set(env.domains["py"].objects))
    if missing:
        raise ExtensionError(f"docs/api must document {', '.join(missing)}")


# Their docstrings go on with code or a list of files, which are no reStructuredText.
_SUMMARY_ONLY = {
    f"vicreg_jax.{name}" for name in ("convert", "encoder", "nn", "pretrain.input")
}


def _shorten(app, what, name, value, options, lines):
    if what == "module" and name in _SUMMARY_ONLY and "" in lines:
        del lines[lines.index("") :]


def _skip_tuple_fields(app, what, name, value, skip, options):
    """Skips fields of named tuples: the class's docstring documents them."""
    field = (inspect.getdoc(value) or "").startswith("Alias for field number")
    return True if field else None


def setup(app):
    """Registers the check, and what pages leave out."""
    app.connect("env-check-consistency", _check)
    app.connect("autodoc-skip-member", _skip_tuple_fields)
    app.connect("autodoc-process-docstring", _shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
