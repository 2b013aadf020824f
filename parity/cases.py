"""The catalog of inputs.

The random seed of a case depends on its distribution and shape alone, so that a case is
the same in every run. Drawing one needs only NumPy.
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
    """How much is run. Each level includes the levels before it."""

    QUICK = 0
    STANDARD = 1
    FULL = 2
    HUGE = 3


@dataclass(frozen=True)
class Case:
    """One comparison: inputs, weights, and the reference.

    Attributes:
        distribution: A key of `DISTRIBUTIONS`.
        n: Rows.
        d: Columns.
        dtype: Dtype of the embeddings.
        reference: "torch" for our own PyTorch reference, or one of `UPSTREAMS`, each
            with its own convention of the weights.
        weights: Weights of invariance, variance and covariance.
        gamma: Target standard deviation.
        eps: Added to the variances.
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
        """The name that `--filter` matches. Default weights and gamma are left out."""
        parts = [self.reference, self.distribution, f"{self.n}x{self.d}", self.dtype]
        if self.weights != WEIGHTS:
            parts.append("w" + "_".join(f"{weight:g}" for weight in self.weights))
        if self.gamma != 1:
            parts.append(f"gamma{self.gamma:g}")
        return "-".join(parts)

    @property
    def exact(self) -> bool:
        """Whether no number is rounded on the way, so that no error is allowed."""
        return self.distribution == "kink"

    def views(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns both views in float64, before rounding to `dtype`."""
        # Not `hash`, which differs from process to process for strings.
        seed = zlib.crc32(f"{self.distribution} {self.n} {self.d}".encode())
        draw = DISTRIBUTIONS[self.distribution]
        return draw(np.random.default_rng(seed), self.n, self.d)


def _pair(shared: np.ndarray, rng, noise=0.5) -> tuple[np.ndarray, np.ndarray]:
    """Two views of the same rows, each with its own noise."""
    scale = noise * shared.std()
    first, second = (
        shared + scale * rng.standard_normal(shared.shape) for _ in range(2)
    )
    return first, second


def normal(rng, n, d):
    """Columns on both sides of the hinge, with small nonzero means."""
    first, second = _pair(rng.standard_normal((n, d)), rng)
    scale = rng.uniform(0.3, 1.8, d)
    return scale * first + 0.3, scale * second + 0.3


def correlated(rng, n, d):
    """One factor shared by all columns, which makes the covariance term large."""
    common, own = rng.standard_normal((n, 1)), rng.standard_normal((n, d))
    return _pair(0.5 * common + 0.6 * own, rng, noise=0.2)


def low_rank(rng, n, d):
    """Rows in a subspace of low dimension, as after a narrow bottleneck."""
    rank = max(1, min(n, d) // 4)
    basis = rng.standard_normal((rank, d)) / np.sqrt(rank)
    first, second = _pair(rng.standard_normal((n, rank)), rng)
    return first @ basis, second @ basis


def collapsed(rng, n, d):
    """All rows are equal, so that only eps keeps the square root smooth."""
    z = np.broadcast_to(rng.standard_normal(d), (n, d)).copy()
    return z, z.copy()


def near_collapsed(rng, n, d):
    """Standard deviations far below the square root of eps."""
    first, second = _pair(rng.standard_normal((n, d)), rng)
    scale = rng.uniform(1e-5, 1e-3, d)
    return scale * first, scale * second


def offset(rng, n, d):
    """Means a hundred times the standard deviation, where centering is critical."""
    first, second = _pair(rng.standard_normal((n, d)), rng)
    mean = 100 * rng.choice([-1.0, 1.0], d)
    return first + mean, second + mean


def scales(rng, n, d):
    """Columns whose standard deviations differ by five orders of magnitude."""
    first, second = _pair(rng.standard_normal((n, d)), rng)
    scale = np.logspace(-3, 2, d)
    return scale * first, scale * second


def heavy_tailed(rng, n, d):
    """Student's t with three degrees of freedom: single rows dominate."""
    shared = 0.5 * rng.standard_t(3, (n, d))
    return _pair(np.clip(shared, -50, 50), rng)


def large(rng, n, d):
    """Standard deviations near 100, whose squared covariances overflow in float16."""
    first, second = _pair(rng.standard_normal((n, d)), rng)
    return 90 * first, 90 * second


def whitened(rng, n, d):
    """As little covariance as the rank allows, as at the end of training."""
    x = rng.standard_normal((n, d))
    u, _, vt = np.linalg.svd(x - x.mean(0), full_matrices=False)
    # Centered rows have rank n - 1 at most. Singular vectors beyond it are arbitrary.
    rank = min(n - 1, d)
    z = u[:, :rank] @ vt[:rank] * np.sqrt(n - 1)
    return _pair(z, rng, noise=0.01)


def balanced(rng, n, d):
    """Gradients that cancel to a tenth, at the weights `BALANCED`.

    In the first view, that of the invariance is 9/10 of that of the hinge, and opposite
    to it. In the second view they have the same sign, and their sum is no smaller.
    """
    x = rng.standard_normal((n, d))
    x = (x - x.mean(0)) / x.std(0, ddof=1)
    return 0.9 * x, 0.9 * x * (1 - 0.9 * 0.45 * n / (n - 1) / 0.81)


def kink(rng, n, d):
    """With eps 7/16 and n = 5, every standard deviation is exactly gamma."""
    if n != 5:
        raise ValueError(f"`n` must be 5, where the arithmetic is exact, got {n}")
    # The variance is 4 (3/4)^2 / 4 = 9/16, and with eps it is 1. Every number on the
    # way has a few bits only, so that even bfloat16 holds it.
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

# On both sides of the point where the loss switches to the other product.
_SMALL = ((64, 24), (24, 64))
_SHAPES: dict[Level, Shapes] = {
    # 32x64 is the last size that takes the Gram matrix, and 33x64 the first that does
    # not.
    Level.QUICK: ((2, 3), (33, 64), (32, 64), *_SMALL),
    Level.STANDARD: ((2, 2), (5, 7), (64, 64), (65, 64), (63, 64), (128, 512)),
    Level.FULL: ((257, 1), (256, 2048), (2048, 256), (512, 1024), (1024, 1024))
    + ((1024, 4096),),
    Level.HUGE: ((2048, 8192),),
}
_TERMS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (10.0, 3.0, 0.04))


def catalog(level: Level) -> list[Case]:
    """Returns every case of a level and of the levels below it, without repetition."""
    chosen = [case for up_to in range(level + 1) for case in _added(Level(up_to))]
    return list(dict.fromkeys(chosen))


def _added(level: Level) -> Iterator[Case]:
    """Yields the cases that a level adds to those below it."""
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
    # `kink` needs five rows and an eps of its own; see below.
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
