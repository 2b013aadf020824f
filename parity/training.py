"""Section 3: the same training, step by step.

The same expander from the same weights on the same batches, 20 steps of SGD, AdamW and
LARS under a warm-up and a cosine, ours beside PyTorch's: parameters, running statistics
of the batch norms, and the losses.

float64: the limit is what becomes of PyTorch's own run when each gradient is disturbed
by what rounding may do to it (`_roundoff`), so that the trajectory's own condition is
in it: AdamW turns the zero gradients of a bias before a batch norm into steps of noise.

float32: the limit is `SPREAD` times what PyTorch's runs on permuted rows differ by.
Permuting reorders the sums over rows alone, about half of all that is rounded;
redrawing all of it would make the difference the root of 2 larger, and `SPREAD` of 2
leaves the rest for the spread of a maximum of a few draws. The losses are also allowed
the rounding of one evaluation, and AdamW what the cancellation in Optax's bias
correction makes of the learning rate.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch

from parity import training_jax, training_torch
from parity.cases import Level
from parity.checks import Check, Task
from parity.oracle import Bounds, numpy_loss, rounding_bounds
from parity.ours import Ours
from parity.training_torch import Run
from parity.values import UNITS, distance

STEPS = 20
SPREAD = 2.0
_DRAWS = 4
_PEAKS = {"sgd": 1e-2, "adamw": 3e-3, "lars": 1.0}
# Rows, inputs and width: fewer than half as many rows as columns, and more.
_SIZES: dict[Level, tuple[tuple[int, int, int], ...]] = {
    Level.QUICK: ((24, 16, 64),),
    Level.STANDARD: ((48, 16, 32),),
    Level.FULL: ((128, 64, 512), (512, 64, 128)),
}


def tasks(level: Level, ours: Ours, platform: str = "cpu") -> Iterator[Task]:
    """Yields the section's tasks."""
    sizes = [size for at in _SIZES if at <= level for size in _SIZES[at]]
    for size in sizes:
        for optimizer in training_torch.OPTIMIZERS:
            for dtype in ("float64", "float32"):
                experiment = Experiment(*size, optimizer, dtype)
                yield Task(experiment.name, partial(experiment.checks, ours))


@dataclass(frozen=True)
class Experiment:
    """One training run, on both sides.

    Attributes:
        rows: of a batch.
        inputs: columns of a batch.
        width: of the expander.
        optimizer: a key of `training_torch.OPTIMIZERS`.
        dtype: to train in.
    """

    rows: int
    inputs: int
    width: int
    optimizer: str
    dtype: str

    @property
    def name(self) -> str:
        """The task's name."""
        return f"training/{self.optimizer}-{self.rows}x{self.width}-{self.dtype}"

    @cached_property
    def model(self) -> torch.nn.Sequential:
        """The expander before training."""
        return training_torch.expander(self.inputs, self.width, seed=self.rows)

    @cached_property
    def batches(self) -> np.ndarray:
        """What it is trained on."""
        return draw_batches(self.rows, self.inputs)

    @property
    def rates(self) -> np.ndarray:
        """The learning rates."""
        return schedule(_PEAKS[self.optimizer])

    def theirs(self, **changed) -> Run:
        """Returns PyTorch's run, with some of its arguments changed."""
        usual = {"batches": self.batches, "rates": self.rates, "dtype": self.dtype}
        model = copy.deepcopy(self.model)
        return training_torch.train(
            model, optimizer=self.optimizer, **(usual | changed)
        )

    def ours(self, ours: Ours) -> Run:
        """Returns our run from PyTorch's weights."""
        named = self.model.named_parameters()
        weights = {name: p.detach().numpy() for name, p in named}
        return training_jax.train(
            ours, weights, self.batches, self.optimizer, self.rates, self.dtype
        )

    def checks(self, ours: Ours) -> list[Check]:
        """Returns the verdicts on parameters, statistics and losses."""
        base, exact = self.theirs(), self.theirs(dtype="float64")
        limits = (
            self._disturbed(base) if self.dtype == "float64" else self._permuted(base)
        )
        if (self.dtype, self.optimizer) == ("float32", "adamw"):
            rates = self.rates * (1 + _bias_correction_doubt())
            limits += distances(exact, self.theirs(dtype="float64", rates=rates))
        limits[-1] += _roundings(self.embeddings(), UNITS[self.dtype]).total
        runs = (self.ours(ours), base, exact)
        return [
            compared(self.name, quantity, parts, limit, self.dtype)
            for quantity, *parts, limit in zip(Run._fields, *runs, limits, strict=True)
        ]

    def embeddings(self) -> list[np.ndarray]:
        """Returns both views of the first batch as the untrained expander sees them."""
        with torch.no_grad():
            model = copy.deepcopy(self.model)
            return [model(torch.tensor(view)).numpy() for view in self.batches[0]]

    def _permuted(self, base: Run) -> np.ndarray:
        """Returns what PyTorch's runs on permuted rows differ by, times `SPREAD`."""
        draws = [np.random.default_rng(seed) for seed in range(_DRAWS)]
        orders = [draw.permutation(self.rows) for draw in draws]
        runs = [self.theirs(batches=self.batches[:, :, order]) for order in orders]
        return SPREAD * np.max([distances(base, run) for run in runs], axis=0)

    def _disturbed(self, base: Run) -> np.ndarray:
        """Returns what rounding in the gradients makes of PyTorch's run."""
        size = roundoff(self.embeddings(), UNITS[self.dtype], self.width)
        runs = [self.theirs(disturb=disturbance(size, i)) for i in range(_DRAWS)]
        return np.max([distances(base, run) for run in runs], axis=0)


def draw_batches(rows: int, inputs: int, steps: int = STEPS) -> np.ndarray:
    """Returns batches of both views, shape (steps, 2, rows, inputs), float32 exactly.

    Columns are scaled and shifted, so that the first batch norm has work to do.
    """
    rng = np.random.default_rng([rows, inputs])
    shared = rng.standard_normal((steps, 1, rows, inputs))
    views = shared + 0.3 * rng.standard_normal((steps, 2, rows, inputs))
    return _as_float32(views * rng.uniform(0.5, 2, inputs) + 0.1)


def schedule(peak: float, steps: int = STEPS) -> np.ndarray:
    """Returns learning rates: a quarter of linear warm-up, then half a cosine."""
    warm = steps // 4
    rise = np.arange(1, warm + 1) / warm
    fall = (1 + np.cos(np.pi * np.arange(1, steps - warm + 1) / (steps - warm))) / 2
    return _as_float32(peak * np.concatenate([rise, fall]))


def _as_float32(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32).astype(np.float64)


def compared(
    task: str, quantity: str, parts, limit: float, dtype: str, peer_limit=math.inf
) -> Check:
    """Returns the verdict on one part of three runs: ours, PyTorch's and the exact one.

    Ours is held to PyTorch's, and PyTorch's to the exact one by `peer_limit`.
    """
    got, base, exact = map(flat, parts)
    worst = int(np.argmax(np.abs(got - base)))
    theirs = distance(base, exact)
    return Check(
        task=task,
        quantity=quantity,
        ours=float(got[worst]),
        theirs=float(base[worst]),
        exact=float(exact[worst]),
        unit=UNITS[dtype] * float(np.linalg.norm(exact)),
        distance=distance(got, base),
        their_distance=theirs,
        limit=float(limit),
        peer_distance=theirs,
        peer_limit=peer_limit,
        dtype=dtype,
    )


def distances(first: Run, second: Run) -> np.ndarray:
    """Returns how far apart two runs are: parameters, statistics, losses."""
    pairs = zip(first, second, strict=True)
    return np.array([distance(flat(one), flat(other)) for one, other in pairs])


def flat(part) -> np.ndarray:
    """Returns all numbers of a part of a run, in the order of their names."""
    if isinstance(part, np.ndarray):
        return part
    return np.concatenate([np.zeros(0), *(part[key].ravel() for key in sorted(part))])


def roundoff(views, unit: float, width: int) -> float:
    """Returns the relative error that rounding may leave in one step's gradient.

    That of the loss by `rounding_bounds`, and of three products forward and six back,
    each off by `8 sqrt(k) unit` at an inner dimension of k.
    """
    exact, bounds = numpy_loss(*views), _roundings(views, unit)
    of_loss = np.linalg.norm(np.stack([bounds.dz1, bounds.dz2]))
    of_loss /= np.linalg.norm(np.stack([exact.dz1, exact.dz2]))
    return float(of_loss + 9 * 8 * max(width, len(views[0])) ** 0.5 * unit)


def _roundings(views, unit: float) -> Bounds:
    z1, z2 = views
    return rounding_bounds(z1, z2, unit)


def disturbance(size: float, seed: int):
    """Returns what adds noise to all gradients, each entry as large as their RMS.

    Relative to the whole gradient and not to the entry: what cancels in an entry, all
    of it before a batch norm, rounds at the size of what cancelled.
    """
    noise = torch.Generator().manual_seed(seed)

    def disturb(gradients):
        squares = sum(float((g**2).sum()) for g in gradients)
        rms = (squares / sum(g.numel() for g in gradients)) ** 0.5
        draws = [
            torch.randn(g.shape, generator=noise, dtype=g.dtype) for g in gradients
        ]
        return [g + size * rms * draw for g, draw in zip(gradients, draws, strict=True)]

    return disturb


def _bias_correction_doubt() -> np.ndarray:
    """Returns the relative error that Optax's float32 leaves in AdamW's step lengths.

    It computes 1 - 0.999^t in float32, PyTorch in float64. The power is off by t + 1
    roundings of 2^-25 at numbers next to 1; the difference is about t/1000, and the
    step goes with its square root.
    """
    t = np.arange(1, STEPS + 1)
    return (t + 1) * 2.0**-25 / (1 - 0.999**t) / 2
