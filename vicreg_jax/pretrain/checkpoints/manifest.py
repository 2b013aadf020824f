"""What a checkpoint must contain, itself under a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vicreg_jax.pretrain.checkpoints.leaves import Leaf

# In JSON, where it is shorter to read than a dictionary of its own.
Entry = list[Any]  # [dtype, shape, digest]


class Damaged(Exception):
    """A checkpoint that is not what was saved; the message says why."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint must contain.

    Attributes:
        step: The step it is of.
        leaves: Dtype, shape and digest of every leaf, by name.
        extra: What the caller saved beside the arrays.
    """

    step: int
    leaves: dict[str, Entry]
    extra: dict[str, Any]


def build(
    step: int,
    leaves: Mapping[str, Leaf],
    digests: Mapping[str, str],
    extra: dict[str, Any],
) -> Manifest:
    """Returns the manifest of the leaves.

    Raises:
        TypeError: If `extra` would not come back from JSON as it was.
    """
    try:
        same = json.loads(json.dumps(extra)) == extra
    except (TypeError, ValueError) as error:
        raise TypeError(f"`extra` must be what JSON can hold: {error}") from error
    if not same:
        raise TypeError(
            "`extra` must come back from JSON as it was (lists, not tuples; strings as "
            f"keys; no NaN), got {extra!r}"
        )
    entries = {
        name: [str(leaf.dtype), list(leaf.shape), digests[name]]
        for name, leaf in leaves.items()
    }
    return Manifest(step, entries, extra)


def seal(manifest: Manifest) -> dict[str, str]:
    """Returns the manifest as one text with the text's SHA-256 beside it."""
    text = json.dumps(vars(manifest))
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "manifest": text}


def unseal(sealed: Any) -> Manifest:
    """Returns what was sealed.

    Raises:
        Damaged: If it is not, bit by bit.
    """
    try:
        text = sealed["manifest"]
        whole = hashlib.sha256(text.encode()).hexdigest() == sealed["sha256"]
    except (TypeError, KeyError, AttributeError, UnicodeError) as error:
        raise Damaged("its manifest is not one") from error
    if not whole:
        raise Damaged("its manifest is not the one that was saved")
    return Manifest(**json.loads(text))


def check_structure(manifest: Manifest, like: Mapping[str, Leaf]) -> None:
    """Says which leaves differ from what the caller wants to restore.

    Raises:
        ValueError: If any does.
    """
    lines = [f"missing {name}" for name in like if name not in manifest.leaves]
    for name, (dtype, shape, _) in manifest.leaves.items():
        if name not in like:
            lines.append(f"unexpected {name}")
            continue
        want = (str(like[name].dtype), tuple(like[name].shape))
        if want != (dtype, tuple(shape)):
            wanted = f"{want[0]}{list(want[1])}"
            lines.append(f"{name} is {dtype}{shape} where {wanted} is wanted")
    if lines:
        raise ValueError(
            f"`like` must have the leaves of the checkpoint of step {manifest.step}, "
            f"which differs: {'; '.join(lines)}"
        )


def check_values(manifest: Manifest, digests: Mapping[str, str]) -> None:
    """Compares what was restored with what was saved.

    Raises:
        Damaged: If any leaf differs.
    """
    names = [
        name for name, entry in manifest.leaves.items() if digests[name] != entry[2]
    ]
    if names:
        raise Damaged(f"it has other values than were saved in {', '.join(names)}")
