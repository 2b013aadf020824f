"""The catalogue of inputs: one list for the suite, the tests and the benchmarks.

A case is drawn from its own name alone, so that it is the same wherever it is run, in
whatever order and company. Only NumPy is needed to draw one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import product

import numpy as np

WEIGHTS = (25.0, 25.0, 1.0)
BALANCED = (25.0, 25.0, 0.1)
DTYPES = ("float64", "float32", "bfloat16", "float16")
UPSTREAMS = (
    "quadra",
    "lightly",
    "solo_learn",
    "pytorch_metric_learning",
    "stable_pretraining",
)


class Level(IntEnum):
    """How much is run; each level includes those before it."""

    QUICK = 0
    STANDARD = 1
    FULL = 2
    HUGE = 3


@dataclass(frozen=True)
class Case:
    """One comparison: inputs, weights, and whom to compare with.

    Attributes:
        distribution: a key of `DISTRIBUTIONS`.
        n: rows.
        d: columns.
        dtype: of the embeddings.
        reference: "torch" for our transcription, or one of `UPSTREAMS`, which brings
            its own convention of what `weights` weigh.
        weights: of invariance, variance and covariance.
        gamma: target standard deviation.
        eps: added to the variances.
    """

    distribution: str
    n: int
    d: int
    dtype: str = "float32"
    reference: str = "torch"
    weights: tuple[float, float, float] = WEIGHTS
    gamma: float = 1.0
    eps: float = 1e-4

    @property
    def name(self) -> str:
        """The name that `--filter` knows it by; what is usual goes without saying."""
        parts = [self.reference, self.distribution, f"{self.n}x{self.d}", self.dtype]
        if self.weights != WEIGHTS:
            parts.append("w" + "_".join(f"{weight:g}" for weight in self.weights))
        if self.gamma != 1:
            parts.append(f"gamma{self.gamma:g}")
        return "-".join(parts)

    @property
    def exact(self) -> bool:
        """Whether every number on the way is representable: nothing may be off."""
        return self.distribution == "kink"

    def views(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns both views in float64, not yet rounded to `dtype`."""
        seed = zlib.crc32(f"{self.distribution} {self.n} {self.d}".encode())
        draw = DISTRIBUTIONS[self.distribution]
        return draw(np.random.default_rng(seed), self.n, self.d)


def _pair(shared: np.ndarray, rng, noise=0.5) -> tuple[np.ndarray, np.ndarray]:
    """Two views of the same rows: what they share, and noise of their own."""
    scale = noise * shared.std()
    first, second = (
        shared + scale * rng.standard_normal(shared.shape) for _ in range(2)
    )
    return first, second


def normal(rng, n, d):
    """Columns on both sides of the hinge, a little off centre."""
    first, second = _pair(rng.standard_normal((n, d)), rng)
    scale = rng.uniform(0.3, 1.8, d)
    return scale * first + 0.3, scale * second + 0.3


def correlated(rng, n, d):
    """One common factor in all columns: a large covariance term."""
    common, own = rng.standard_normal((n, 1)), rng.standard_normal((n, d))
    return _pair(0.5 * common + 0.6 * own, rng, noise=0.2)


def low_rank(rng, n, d):
    """Rows in a space of few dimensions, as after a narrow bottleneck."""
    rank = max(1, min(n, d) // 4)
    basis = rng.standard_normal((rank, d)) / np.sqrt(rank)
    first, second = _pair(rng.standard_normal((n, rank)), rng)
    return first @ basis, second @ basis


def collapsed(rng, n, d):
    """All rows equal: variances of zero, where only eps keeps the root smooth."""
    z = np.broadcast_to(rng.standard_normal(d), (n, d)).copy()
    return z, z.copy()


def near_collapsed(rng, n, d):
    """Spreads far below the root of eps."""
    first, second = _pair(rng.standard_normal((n, d)), rng)
    scale = rng.uniform(1e-5, 1e-3, d)
    return scale * first, scale * second


def offset(rng, n, d):
    """Means a hundred times the spread: what is not centred first is lost."""
    first, second = _pair(rng.standard_normal((n, d)), rng)
    mean = 100 * rng.choice([-1.0, 1.0], d)
    return first + mean, second + mean


def scales(rng, n, d):
    """Columns whose spreads differ by five orders of magnitude."""
    first, second = _pair(rng.standard_normal((n, d)), rng)
    scale = np.logspace(-3, 2, d)
    return scale * first, scale * second


def heavy_tailed(rng, n, d):
    """Student's t with three degrees of freedom: single rows outweigh the rest."""
    shared = 0.5 * rng.standard_t(3, (n, d))
    return _pair(np.clip(shared, -50, 50), rng)


def large(rng, n, d):
    """Spreads of a hundred, whose squared covariances float16 cannot hold."""
    first, second = _pair(rng.standard_normal((n, d)), rng)
    return 90 * first, 90 * second


def whitened(rng, n, d):
    """No covariance beyond what the rank forces: where training is headed."""
    x = rng.standard_normal((n, d))
    u, _, vt = np.linalg.svd(x - x.mean(0), full_matrices=False)
    rank = min(n - 1, d)
    z = u[:, :rank] @ vt[:rank] * np.sqrt(n - 1)
    return _pair(z, rng, noise=0.01)


def balanced(rng, n, d):
    """The invariance pulls as hard as the hinge pushes, at the weights `BALANCED`."""
    x = rng.standard_normal((n, d))
    x = (x - x.mean(0)) / x.std(0, ddof=1)
    return 0.9 * x, 0.9 * x * (1 - 0.9 * 0.45 * n / (n - 1) / 0.81)


def kink(rng, n, d):
    """Every column's deviation is gamma to the last bit, with eps 7/16, for n = 5."""
    assert n == 5, "only for five rows is every step of the arithmetic exact"
    signs = rng.choice([-1.0, 1.0], d)
    z = 0.75 * np.outer([1, -1, 1, -1, 0], signs)
    return z, z.copy()


Draw = Callable[[np.random.Generator, int, int], tuple[np.ndarray, np.ndarray]]
DISTRIBUTIONS: dict[str, Draw] = {
    draw.__name__: draw
    for draw in (
        normal,
        correlated,
        low_rank,
        collapsed,
        near_collapsed,
        offset,
        scales,
        heavy_tailed,
        large,
        whitened,
        balanced,
        kink,
    )
}

Shapes = tuple[tuple[int, int], ...]

# Few columns and many, and on both sides of where the smaller product changes.
_SMALL = ((64, 24), (24, 64))
_SHAPES: dict[Level, Shapes] = {
    Level.QUICK: ((2, 3), (33, 64), (32, 64), *_SMALL),
    Level.STANDARD: ((2, 2), (5, 7), (64, 64), (65, 64), (63, 64), (128, 512)),
    Level.FULL: ((257, 1), (256, 2048), (2048, 256), (512, 1024), (1024, 1024))
    + ((1024, 4096),),
    Level.HUGE: ((2048, 8192),),
}
_TERMS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (10.0, 3.0, 0.04))


def catalogue(level: Level) -> list[Case]:
    """Returns every case of a level and of those below it, each once."""
    chosen = [case for up_to in range(level + 1) for case in _added(Level(up_to))]
    return list(dict.fromkeys(chosen))


def _added(level: Level) -> Iterator[Case]:
    """What a level adds to those below it."""
    # On one core a product of this size takes seconds in half precision.
    dtypes = DTYPES if level < Level.HUGE else ("float32",)
    for (n, d), dtype in product(_SHAPES[level], dtypes):
        yield Case("normal", n, d, dtype)
    if level == Level.QUICK:
        yield from _of_every_kind(_SMALL)
    if level == Level.STANDARD:
        yield from _by_every_upstream(DISTRIBUTIONS)
    if level == Level.FULL:
        yield from _of_every_kind(((256, 2048), (512, 128)))


def _of_every_kind(shapes: Shapes) -> Iterator[Case]:
    usual = [name for name in DISTRIBUTIONS if name not in ("normal", "kink")]
    for (n, d), name, dtype in product(shapes, usual, DTYPES):
        yield Case(name, n, d, dtype)
    for (n, d), dtype in product(shapes, DTYPES):
        yield Case("balanced", n, d, dtype, weights=BALANCED)
    for d, dtype in product((2, 16), DTYPES):
        yield Case("kink", 5, d, dtype, weights=(0.0, 25.0, 0.0), eps=7 / 16)
    for (n, d), dtype in product(shapes, ("float64", "float32")):
        yield from (Case("normal", n, d, dtype, weights=weights) for weights in _TERMS)
        yield from (Case("normal", n, d, dtype, gamma=gamma) for gamma in (0.5, 4.0))
    yield from _by_every_upstream(("normal", "large"))
    yield Case("normal", 24, 64, reference="quadra", gamma=0.5)


def _by_every_upstream(distributions) -> Iterator[Case]:
    usual = [name for name in distributions if name != "kink"]
    for (n, d), name, reference, dtype in product(_SMALL, usual, UPSTREAMS, DTYPES):
        yield Case(name, n, d, dtype, reference)
