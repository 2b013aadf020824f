"""Views as config.json stores them: the class as "module:Class", and its settings."""

from __future__ import annotations

import dataclasses
import json
import pkgutil
from typing import Any

from vicreg_jax.augment.views import Views, follows_protocol


def views_to_json(views: Views) -> dict[str, Any]:
    """Returns views as JSON.

    Raises:
        ValueError: If `views_from_json` could not return the same views. For example,
            a class inside a function cannot be imported, and JSON has no arrays.
    """
    kind = f"{type(views).__module__}:{type(views).__qualname__}"
    try:
        # `is_dataclass` is true of the class as well.
        if not dataclasses.is_dataclass(views) or isinstance(views, type):
            raise TypeError("this is not an instance of a dataclass")
        settings = dataclasses.asdict(views)
        # Through text, because JSON changes some settings without an error: keys become
        # strings, and lists cannot be told from tuples.
        stored = json.loads(json.dumps({"kind": kind} | settings))
        # Read back at once, since a resumed run could only fail.
        read = views_from_json(stored)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`views` must be what config.json can store, got {views}: {error}"
        ) from error
    if read != views:
        raise ValueError(
            "`views` must have settings that JSON can store (numbers, strings, and "
            f"tuples of them), got {views}, which config.json would return as {read}"
        )
    return stored


def views_from_json(stored: dict[str, Any]) -> Views:
    """Returns views from what `views_to_json` returned.

    Raises:
        ValueError: If the class cannot be imported, does not follow the protocol
            `Views`, or has other settings.
    """
    settings = {name: _tuples(value) for name, value in stored.items()}
    kind = settings.pop("kind")
    views_class = _imported(kind)
    # Checked before the call, so that config.json can name nothing but views.
    if not isinstance(views_class, type) or not follows_protocol(views_class):
        raise ValueError(
            "`kind` of `views` must name a class with `pair`, `plain` and `size`; see "
            f"vicreg_jax.augment.Views; got {kind!r}"
        )
    try:
        return views_class(**settings)
    except TypeError as error:
        raise ValueError(
            f"`views` must have the settings of {kind}, got {settings}: {error}"
        ) from error


def _imported(kind: str) -> object:
    try:
        return pkgutil.resolve_name(kind)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            "`kind` of `views` must name a class as module:Class, in a module that can "
            f"be imported here, got {kind!r}: {error}; PYTHONPATH must contain the "
            f"directory of the module {kind.partition(':')[0]}"
        ) from error


def _tuples(value: Any) -> Any:
    """Returns JSON's lists as tuples, which frozen dataclasses have."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
