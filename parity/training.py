"""One training run in both frameworks, and the comparison of the two.

Both frameworks start from the same weights and see the same batches. Ours runs the step
that ships, `vicreg_jax.pretrain.step.Programs.train`. PyTorch's steps are written for
this suite. Every parameter, every running statistic of a batch norm, and the losses are
compared at the end, each within its own limit.

float64: the limit is the largest distance that PyTorch's own run moves when each of its
operations is disturbed by what rounding may do to it; see `roundings`.

float32: the limit is `SPREAD` times the largest distance between PyTorch's run and its
runs on permuted rows and channels: the same arithmetic in another order. `SPREAD` makes
up for the roundings that no permutation redraws, and for the few draws. PyTorch sums
the moments of a batch norm in float64, and some do not change at all: every array is
allowed at least the median of all relative distances. If the input of a ReLU is so near
to zero that rounding may switch it, the distances to the runs in which all such ReLUs
are on, and off, are added; see `kinks`. PyTorch takes our float32
learning rates, which are compared with the official formula by themselves. AdamW is
also allowed what the float32 bias correction of Optax adds, and the losses the rounding
of one evaluation.

AdamW divides each gradient by its own size, and LARS by that of its layer. In float32 a
gradient that is nothing but rounding becomes a whole step, and errors of a step hide
behind it. There the gradients of each step are compared as well, at the parameters that
PyTorch has in that step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from parity import kinks, training_jax, training_torch
from parity.checks import Check
from parity.comparison import (
    Arrays,
    Distances,
    Reference,
    compared,
    distances,
    largest_distances,
    norm,
)
from parity.oracle import rounding_bounds
from parity.ours import PACKAGE, Ours
from parity.roundings import DRAWS, Roundings
from parity.training_torch import Run
from parity.values import UNITS

SPREAD = 2.0


@dataclass(frozen=True)
class Experiment:
    """One training run, on both sides.

    Attributes:
        name: Name of the task.
        model: The network before training, in PyTorch and in float64.
        untrained: Returns the same network of ours, with any weights.
        batches: Views of shape (steps, 2, rows, ...), channels first.
        optimizer: A key of `training_torch.OPTIMIZERS`.
        peak: Largest learning rate.
        warmup: Share of the steps in which the learning rate rises.
        weights: Weights of invariance, variance and covariance, for PyTorch.
        our_weights: The same for ours.
        dtype: To train in.
        gradients: Whether to compare the gradients of each step as well.
    """

    name: str
    model: torch.nn.Module
    untrained: Callable
    batches: np.ndarray
    optimizer: str
    peak: float
    warmup: float
    weights: tuple[float, float, float]
    our_weights: tuple[Any, Any, Any]
    dtype: str
    gradients: bool = False

    def checks(self, ours: Ours) -> Iterator[Check]:
        """Yields the verdict on each parameter, each statistic and the losses."""
        programs = self._programs(ours)
        yield from compared(
            self.name, self._trained(programs), self._reference, self.dtype
        )
        yield from self._rates_checks(programs)
        if self.gradients:
            # The gradients do not depend on the optimizer, and AdamW keeps them.
            programs = replace(self, optimizer="adamw")._programs(ours)
            for at, step in enumerate(self._first_steps):
                yield from step._gradient_checks(programs, at)

    def ours(self, ours: Ours) -> Arrays:
        """Returns what our run from PyTorch's weights leaves behind."""
        return self._trained(self._programs(ours))

    def theirs(self, seed: int | None = None, **changed) -> Run:
        """Returns PyTorch's run.

        Args:
            seed: Seed of a random order of the rows, and of each layer's input
                channels. None: they stay as they are.
            **changed: Arguments of `training_torch.train`.
        """
        usual = {"rates": self._rates, "dtype": self.dtype, "weights": self.weights}
        model, batches = copy.deepcopy(self.model), self.batches
        if seed is not None:
            order = np.random.default_rng(seed)
            # Both views in the same order, so that rows stay pairs.
            batches = batches[:, :, order.permutation(batches.shape[2])]
            model = training_torch.reordered(model, order)
        return training_torch.train(model, batches, self.optimizer, **(usual | changed))

    def _trained(self, programs: training_jax.Step) -> Arrays:
        batches = channels_last(self.batches)
        run = training_jax.train(programs, self._tensors, batches, self.dtype)
        rows = training_torch.rows_of_norms(self.model, self.batches[0, 0])
        # Each step calls the network twice.
        updates = 2 * len(batches)
        statistics = training_jax.unbiased(run.statistics, self._tensors, updates, rows)
        return run._replace(statistics=statistics).named()

    @cached_property
    def _tensors(self) -> Arrays:
        """The weights and statistics before training, by PyTorch's names."""
        return {k: v.numpy() for k, v in self.model.state_dict().items()}

    @cached_property
    def _official_rates(self) -> np.ndarray:
        steps = len(self.batches)
        return training_torch.schedule(self.peak, steps, round(self.warmup * steps))

    @cached_property
    def _rates(self) -> np.ndarray:
        """The learning rates of the PyTorch side; see the head of this file."""
        if self.dtype == "float64":
            return self._official_rates
        # Never those of a fault, or PyTorch's run would follow it.
        return self._programs(PACKAGE).rates(len(self.batches), self.dtype)

    @cached_property
    def _reference(self) -> Reference:
        if self.dtype == "float64":
            base = exact = self.theirs().named()
            unit = UNITS["float64"]
            noises = [Roundings(unit, seed) for seed in range(DRAWS)]
            runs = [self.theirs(roundings=noise).named() for noise in noises]
            limits = largest_distances(base, runs)
        else:
            exact = self.theirs(dtype="float64").named()
            base, limits = _spread(
                lambda *seed, **own: self.theirs(*seed, **own).named()
            )
        if (self.dtype, self.optimizer) == ("float32", "adamw"):
            for name, moved in self._bias_correction_moves(exact).items():
                limits[name] += moved
        z1, z2 = training_torch.embeddings(self.model, self.batches[0])
        # Our formula of the loss rounds otherwise than PyTorch's, and permuted runs do
        # not show that. The bound (Higham and Mary) is that of one evaluation, at the
        # first batch.
        bounds = rounding_bounds(z1, z2, UNITS[self.dtype], self.weights)
        limits["losses"] += bounds.total
        return Reference(base, exact, limits)

    def _bias_correction_moves(self, exact: Arrays) -> Distances:
        """Returns how far Optax's float32 bias correction takes a run of AdamW."""
        # An error of the step length acts as the same error of the learning rate.
        rates = self._rates * (1 + _bias_correction_error(len(self._rates)))
        moved = self.theirs(dtype="float64", rates=rates)
        return distances(exact, moved.named())

    def _rates_checks(self, programs: training_jax.Step) -> list[Check]:
        """Returns the verdict on our learning rates."""
        wanted, name = self._official_rates, "learning rates"
        got = programs.rates(len(wanted), self.dtype)
        # A rate is the result of a few operations on numbers of at most the peak.
        limit = 4 * UNITS[self.dtype] * self.peak * len(wanted) ** 0.5
        reference = Reference({name: wanted}, {name: wanted}, {name: limit})
        return compared(self.name, {name: got}, reference, self.dtype)

    @cached_property
    def _first_steps(self) -> list[Experiment]:
        """Each step as a run of its own."""
        models: list[torch.nn.Module] = []
        # Each step starts at PyTorch's parameters, so that errors do not add up over
        # steps.
        self.theirs(before_step=lambda model: models.append(copy.deepcopy(model)))
        return [
            replace(self, model=model, batches=self.batches[at : at + 1])
            for at, model in enumerate(models)
        ]

    def _gradient_checks(self, programs: training_jax.Step, at: int) -> list[Check]:
        """Returns the verdict on the gradient of each parameter in the first step."""
        batch = channels_last(self.batches)[0]
        got = training_jax.gradients(programs, self._tensors, batch)
        got, theirs, exact, limits = (
            {f"gradient {at} {name}": value for name, value in part.items()}
            for part in (got, *self._gradient_reference)
        )
        reference = Reference(theirs, exact, limits)
        return compared(self.name, got, reference, self.dtype)

    @cached_property
    def _gradient_reference(self) -> Reference:
        exact = self._gradients(dtype="float64")
        base, limits = _spread(self._gradients)
        for name, value in exact.items():
            # Ours are read off moments, which rounds each entry twice more.
            limits[name] += 2 * UNITS[self.dtype] * norm(value)
        return Reference(base, exact, limits)

    def _gradients(self, seed: int | None = None, **changed) -> Arrays:
        """Returns PyTorch's gradients in the first step."""
        found: Arrays = {}
        self.theirs(
            seed,
            # Nothing is trained: `before_step` reads the gradients.
            rates=np.zeros(1),
            before_step=lambda model: found.update(training_torch.gradients(model)),
            **changed,
        )
        return found

    def _programs(self, ours: Ours) -> training_jax.Step:
        if self.optimizer == "sgd":
            ours = ours._replace(optimizer=training_jax.sgd)
        lambd, mu, nu = self.our_weights
        settings = training_jax.config(
            self.optimizer,
            self.peak,
            self.warmup,
            epochs=len(self.batches),
            batch=self.batches.shape[2],
            lambd=lambd,
            mu=mu,
            nu=nu,
        )
        return training_jax.make(ours, settings, self.untrained)


def channels_last(batches: np.ndarray) -> np.ndarray:
    """Returns batches as our networks want them; those of vectors are unchanged."""
    return np.moveaxis(batches, 3, -1)


def _spread(run: Callable[..., Arrays]) -> tuple[Arrays, Distances]:
    """Returns PyTorch's undisturbed run in float32, and the limits.

    Args:
        run: Returns what PyTorch leaves, on rows and channels permuted by a seed, if it
            gets one, and with `before_relu` of `training_torch.train`.
    """
    inputs = kinks.Inputs()
    base = run(before_relu=inputs)
    recorded = [kinks.Inputs() for _ in range(DRAWS)]
    runs = [run(seed, before_relu=own) for seed, own in enumerate(recorded)]
    most = largest_distances(base, runs)
    sizes = {name: norm(value) for name, value in base.items()}
    usual = float(np.median([most[name] / sizes[name] for name in most]))
    limits = {name: SPREAD * max(most[name], usual * sizes[name]) for name in most}
    noise = SPREAD * max(map(inputs.distance, recorded))
    for side in (noise, -noise) if inputs.reach(noise) else ():
        moved = run(before_relu=partial(kinks.switched, by=side))
        for name, far in distances(base, moved).items():
            limits[name] += far
    return base, limits


def _bias_correction_error(steps: int) -> np.ndarray:
    """Returns the relative error that Optax's float32 leaves in AdamW's step lengths.

    Optax computes 1 - 0.999^t in float32, PyTorch in float64. The power is off by t + 1
    roundings of 2^-25 at numbers next to 1; the difference is about t/1000, and the
    step goes with its square root.
    """
    # The correction of the first moment, 1 - 0.9^t, is never below 0.1, so that its
    # relative error is small beside this one.
    t = np.arange(1, steps + 1)
    return (t + 1) * 2.0**-25 / (1 - 0.999**t) / 2
