"""The inputs of the section `local`, each drawn from its shapes alone."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from parity.cases import DTYPES, Level
from parity.local_oracle import OFFICIAL, Settings


@dataclass(frozen=True)
class LocalCase:
    """One comparison of two views.

    Attributes:
        batch: Images.
        sides: Height and width of each map.
        channels: Channels of the maps.
        settings: Settings of the matching.
        dtype: Dtype of the maps.
        reference: "torch" or "lightly".
    """

    batch: int
    sides: tuple[tuple[int, int], tuple[int, int]]
    channels: int
    settings: Settings
    dtype: str = "float64"
    reference: str = "torch"

    @property
    def name(self) -> str:
        """The name that `--filter` knows it by."""
        sides = "-".join(f"{height}x{width}" for height, width in self.sides)
        features, locations, order, _ = self.settings
        matches = "_".join(
            "all" if k is None else f"{k[0]}_{k[1]}" for k in (features, locations)
        )
        shape = f"{self.batch}x{self.channels}-{sides}"
        return f"{self.reference}-{shape}-{matches}-{order}-{self.dtype}"

    def views(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Returns maps and positions in float64, not yet rounded to `dtype`.

        Crops of one image that overlap, some of them flipped; channels on both sides of
        the hinge. Positions are moved a little, so that no two distances are equal.
        """
        rng = np.random.default_rng(zlib.crc32(repr((self.batch, self.sides)).encode()))
        scale = rng.uniform(0.3, 1.8, self.channels)
        shared = rng.standard_normal((self.batch, 1, 1, self.channels))
        maps, positions = [], []
        for height, width in self.sides:
            own = rng.standard_normal((self.batch, height, width, self.channels))
            maps.append(scale * (0.5 * shared + own) + 0.3)
            positions.append(_cells(rng, self.batch, height, width))
        return maps, positions


def _cells(rng, batch: int, height: int, width: int) -> np.ndarray:
    """Returns cell centers of random crops, columns reversed where they are flipped."""
    top, left, tall, broad = rng.uniform(0.2, 1, (4, batch, 1, 1))
    rows = top + (np.arange(height)[:, None] + 0.5) / height * tall
    columns = left + (np.arange(width) + 0.5) / width * broad
    flipped = rng.random((batch, 1, 1)) < 0.5
    columns = np.where(flipped, columns[:, :, ::-1], columns)
    shape = (batch, height, width)
    cells = np.stack([np.broadcast_to(a, shape) for a in (rows, columns)], axis=-1)
    moved = cells + rng.uniform(0, 0.02, cells.shape)
    # The same numbers in float32 and float64, so that rounding them changes no match.
    return moved.astype(np.float32).astype(np.float64)


_ODD, _SQUARE = ((4, 5), (3, 5)), ((5, 5), (5, 5))
_LIGHTLY = Settings((20, 4), (20, 4), "distance")
# 15 is every position of the smaller map of `_ODD`, but not of the larger.
_FEW = Settings((6, 3), (7, 15), "raster")


def catalog(level: Level) -> list[LocalCase]:
    """Returns the cases of a level and of those below it."""
    cases = [
        LocalCase(6, _SQUARE, 16, OFFICIAL),
        LocalCase(6, _SQUARE, 16, OFFICIAL, "float32"),
        LocalCase(24, _SQUARE, 6, _LIGHTLY, "float64", "lightly"),
    ]
    if level >= Level.STANDARD:
        cases += [
            LocalCase(batch, sides, channels, settings, dtype)
            for batch, channels in ((24, 6), (6, 16))
            for sides, settings in ((_ODD, _FEW), (_SQUARE, _LIGHTLY))
            for dtype in DTYPES
        ]
        cases += [
            LocalCase(6, _SQUARE, 16, _LIGHTLY, dtype, "lightly")
            for dtype in ("float64", "float32")
        ]
    if level >= Level.FULL:
        sides = ((7, 7), (7, 7))
        cases += [
            LocalCase(32, sides, 64, OFFICIAL, "float32"),
            LocalCase(64, sides, 24, _LIGHTLY, "float32"),
            # In float64: from 26 positions on lightly's `torch.cdist` takes distances
            # from a matrix product, whose float32 rounding makes it match others.
            LocalCase(64, sides, 24, _LIGHTLY, "float64", "lightly"),
        ]
    return list(dict.fromkeys(cases))
