"""Optimisers and schedules for VICReg runs, in Optax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import optax

if TYPE_CHECKING:
    from optax import GradientTransformation, Params, Schedule


def warmup_cosine(peak: float, *, steps: int, warmup_steps: int) -> Schedule:
    """Linear from 0 to the peak, then half a cosine to 0.001 of it, as in the paper.

    Args:
        peak: learning rate at the end of the warm-up.
        steps: of the whole run, warm-up included.
        warmup_steps: of the warm-up.

    Returns:
        A function of the step that gives the learning rate.
    """
    return optax.warmup_cosine_decay_schedule(
        0.0, peak, warmup_steps, max(steps, warmup_steps + 1), peak * 0.001
    )


def adamw(schedule: Schedule, *, weight_decay: float) -> GradientTransformation:
    """AdamW that decays matrices and kernels, not biases and batch-norm scales."""
    return optax.adamw(schedule, weight_decay=weight_decay, mask=_not_vectors)


def _not_vectors(params: Params):
    return jax.tree.map(lambda p: p.ndim > 1, params)
