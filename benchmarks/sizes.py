"""The sizes and dtypes to measure, and goals for some of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DTYPES = ("float32", "bfloat16")
WEIGHTS = (25.0, 25.0, 1.0)
"""Of invariance, variance (views summed) and covariance."""


class Size(NamedTuple):
    """Rows and columns of a view."""

    n: int
    d: int

    def __str__(self) -> str:
        return f"{self.n}x{self.d}"

    @property
    def uses_gram(self) -> bool:
        """Whether the loss uses the batch x batch Gram matrix."""
        # As `vicreg_jax._moments.uses_gram_matrix` decides.
        return 2 * self.n <= self.d

    @property
    def work(self) -> int:
        """Multiplications of one d x d product, as in plain implementations."""
        return self.n * self.d * self.d


class Problem(NamedTuple):
    """One set of inputs."""

    size: Size
    dtype: str

    def __str__(self) -> str:
        return f"{self.size} {self.dtype}"

    def views(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns both views in float32: a shared signal, and noise of half its size.

        Standard deviations lie on both sides of the hinge, so no gradient is trivially
        zero.
        """
        rng = np.random.default_rng(0)
        shared, first, second = (
            rng.standard_normal(self.size, np.float32) for _ in range(3)
        )
        scale = rng.uniform(0.4, 1.2, self.size.d).astype(np.float32)
        return scale * (shared + 0.5 * first), scale * (shared + 0.5 * second)


class Goal(NamedTuple):
    """The goals at a size, in float32 on two cores.

    Attributes:
        faster: Smallest ratio of the PyTorch reference's time to ours.
        over_floor: Largest ratio of our time to the floor's.
    """

    faster: float
    over_floor: float


LOSS_SIZES = tuple(
    Size(n, d)
    for n, d in (
        (256, 256),
        (256, 2048),
        (512, 2048),
        (4096, 512),
        (2048, 2048),
        (256, 8192),
        (1024, 4096),
        (65536, 512),
        (2048, 8192),
    )
)
"""In the order of `Size.work`, so that each size predicts the time of the next."""
# Three of one width, for the growth with n, and the paper's size.
MEMORY_SIZES = (Size(256, 4096), Size(1024, 4096), Size(4096, 4096), Size(2048, 8192))
PRECISION_SIZES = (Size(256, 2048), Size(2048, 2048), Size(2048, 8192))
PROBE_SIZES = (Size(100_000, 2048),)
QUICK_PROBE_SIZES = (Size(2000, 32),)
QUICK_SIZES = (Size(32, 128),)

GOALS = {
    Size(256, 2048): Goal(20, 1.4),
    Size(512, 2048): Goal(9, 1.25),
    Size(4096, 512): Goal(1.9, 1.3),
    Size(2048, 2048): Goal(1.7, 1.25),
    Size(256, 8192): Goal(60, 1.6),
    Size(1024, 4096): Goal(9, 1.25),
    Size(2048, 8192): Goal(7, 1.25),
}
MEMORY_GOAL = (Size(2048, 8192), 2.0)
"""Peak beyond inputs and gradients, in float32 views."""
