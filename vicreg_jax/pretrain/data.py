"""The images of a run: those to learn from and those to judge on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vicreg_jax.pretrain.input import Source, Subset, open_source, split

if TYPE_CHECKING:
    from vicreg_jax.pretrain.config import Config


class Data(NamedTuple):
    """Images to learn from and images to judge on, none in both.

    Attributes:
        train: seen while pretraining, their labels by the probes alone.
        held_out: what the probes are judged on; None where images have no labels.
    """

    train: Source
    held_out: Source | None


def load(config: Config) -> Data:
    """Returns the images of a run.

    Without `test_data` a fifth is held out, the same in every run. For
    ``evaluate_on="validation"`` the test images are not returned at all: a fifth of the
    training images is held out instead.

    Raises:
        ValueError: images are of another size, or some that are needed have no label.
    """
    train, held_out = _open(config, config.data), None
    labelled = train[0].label >= 0
    if config.test_data is not None:
        if not labelled:
            raise ValueError(
                f"`data` must have labels where `test_data` is given, got {config.data}"
            )
        held_out = _open(config, config.test_data)
    elif labelled:
        train, held_out = split(train)
    if config.evaluate_on == "validation":
        train, held_out = split(train)
    return Data(train, held_out)


def some(source: Source, most: int, *, seed: int = 0) -> Source:
    """Returns `source`, or so many of its images drawn at random."""
    if len(source) <= most:
        return source
    chosen = np.random.default_rng(seed).choice(len(source), most, replace=False)
    return Subset(source, np.sort(chosen))


def _open(config: Config, data: str) -> Source:
    source = open_source(data, size=config.size, channels=config.channels)
    expected = (config.size, config.size, config.channels)
    if source.shape != expected:
        raise ValueError(
            f"`size` and `channels` must be those of the images of {data}, "
            f"{source.shape}, got {expected}"
        )
    return source
