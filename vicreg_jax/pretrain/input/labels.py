"""Some of a source's labeled images: a share of each class, or those of a list."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.input.sources import Subset

if TYPE_CHECKING:
    from jaxtyping import Int64

    from vicreg_jax.pretrain.input.sources import Source

ALL = "100%"


def labeled(source: Source, labels: str, *, seed: int = 0) -> Source:
    """Returns the images of a source whose labels are used.

    Args:
        source: The training images.
        labels: A share of each class, such as "1%", of which at least one image is
            drawn; or a text file with the name of an image's file in each line, as the
            lists of SimCLR's semi-supervised subsets have it. A line may begin with
            folders, if several images have the same name.
        seed: Seed for drawing a share.

    Raises:
        UsageError: If the share is not above 0% and at most 100%, or the source does
            not have each image of the list exactly once.
        FileNotFoundError: If there is no such file.
    """
    if labels == ALL:
        return source
    if share := re.fullmatch(r"(\d+(?:\.\d+)?)%", labels):
        return Subset(source, _drawn(source, float(share[1]) / 100, seed))
    if not Path(labels).is_file():
        raise FileNotFoundError(
            "--labels must be a share such as 1%, or a text file, got "
            f"{labels!r}, which does not exist"
        )
    return Subset(source, _listed(source, Path(labels)))


def _drawn(source: Source, share: float, seed: int) -> Int64[np.ndarray, " images"]:
    if not 0 < share <= 1:
        raise UsageError(
            f"--labels must be above 0% and at most 100%, got {100 * share:g}%"
        )
    # One generator for all classes. If each class had a generator of the same seed,
    # classes of equal size would draw the same positions.
    draw, labels = np.random.default_rng(seed), source.labels
    chosen = []
    for number in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == number)
        count = max(1, round(share * len(members)))
        chosen.append(draw.choice(members, count, replace=False))
    return np.sort(np.concatenate(chosen))


def _listed(source: Source, path: Path) -> Int64[np.ndarray, " images"]:
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not lines:
        raise UsageError(f"--labels must list at least one image, got {path}, empty")
    # By the name of the file, so that not every line is compared with every image.
    by_file: dict[str, list[int]] = {}
    for index in range(len(source)):
        by_file.setdefault(PurePosixPath(source.name(index)).name, []).append(index)
    chosen = []
    for line in dict.fromkeys(lines):
        same = by_file.get(PurePosixPath(line).name, [])
        # The slash is part of the end, so that og/1.png is not found in dog/1.png.
        found = [i for i in same if f"/{source.name(i)}".endswith(f"/{line}")]
        if len(found) != 1:
            raise UsageError(
                "--labels must be a file whose lines each match one training image, "
                f"got {line!r} in {path}, which matches {len(found)}. Without "
                "--test-data a fifth of --data is held out and does not count"
            )
        chosen += found
    return np.array(sorted(chosen), np.int64)
