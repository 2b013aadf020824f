"""Optimizers and schedules for VICReg runs, in Optax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import optax

if TYPE_CHECKING:
    from optax import GradientTransformation, Params, Schedule

WARMUP_EPOCHS = 10  # of the paper, for runs of any length
# For 100 epochs, by the largest batch size that uses it. Larger batches use 0.3.
_BASE_LR = {128: 0.8, 256: 0.5, 512: 0.4}


def warmup_cosine(peak: float, *, steps: int, warmup_steps: int) -> Schedule:
    """Linear from 0 to the peak, then half a cosine to 0.001 of it, as in the paper.

    Args:
        peak: Learning rate at the end of the warm-up.
        steps: Number of steps of the whole run, warm-up included.
        warmup_steps: Number of steps in which the rate rises.

    Returns:
        A function of the step that gives the learning rate, in JAX's default float.
    """
    # Optax refuses a cosine of no steps, which a run that ends in its warm-up has.
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, peak, warmup_steps, max(steps, warmup_steps + 1), peak * 0.001
    )
    # Optax makes float32 of an integer step even where float64 is switched on.
    return lambda step: schedule(jnp.asarray(step, float))


def paper_schedule(
    base_lr: float, *, batch: int, epochs: int, epoch_steps: int
) -> Schedule:
    """The paper's learning rate: `warmup_cosine` to the peak of `scaled_lr`.

    Args:
        base_lr: Per 256 images; see `paper_base_lr`.
        batch: Images a step, on all devices together.
        epochs: Number of epochs of the whole run; 10 are warm-up.
        epoch_steps: Steps in an epoch.

    Returns:
        A function of the step that gives the learning rate.

    Raises:
        ValueError: If the run would end in its warm-up.
    """
    if epochs <= WARMUP_EPOCHS:
        raise ValueError(
            f"`epochs` must be above {WARMUP_EPOCHS}, those of the warm-up, "
            f"got {epochs}"
        )
    return warmup_cosine(
        scaled_lr(base_lr, batch=batch),
        steps=epochs * epoch_steps,
        warmup_steps=WARMUP_EPOCHS * epoch_steps,
    )


def scaled_lr(base_lr: float, *, batch: int) -> float:
    """The peak learning rate of a batch, ``base_lr * batch / 256``.

    This is the linear scaling rule (Goyal et al., arXiv:1706.02677).

    Args:
        base_lr: Learning rate for 256 images.
        batch: Images a step, on all devices together.
    """
    return base_lr * batch / 256


def paper_base_lr(*, batch: int, epochs: int) -> float:
    """The learning rate per 256 images that the paper trains with.

    The paper gives 0.2 for 1000 epochs at a batch of 2048, and for its ablations of 100
    epochs a rate that depends on the batch. Runs below 1000 epochs get those of the
    ablations here.

    Args:
        batch: Images a step, on all devices together.
        epochs: Number of epochs of the whole run.

    Examples:
        >>> paper_base_lr(batch=2048, epochs=1000), paper_base_lr(batch=256, epochs=100)
        (0.2, 0.5)
    """
    if epochs >= 1000:
        return 0.2
    return next((rate for most, rate in _BASE_LR.items() if batch <= most), 0.3)


def lars(
    schedule: Schedule,
    *,
    weight_decay: float,
    trust_coefficient: float = 0.001,
    clip: bool = False,
) -> GradientTransformation:
    """LARS as facebookresearch/vicreg runs it (You et al., arXiv:1708.03888).

    It applies weight decay, the layer's trust ratio, momentum (0.9) and the learning
    rate, in this order. The trust ratio is the coefficient times the parameter's norm
    over the norm of the decayed gradient, or 1 where either norm is zero. Biases and
    batch norms, which have one dimension, get neither decay nor trust ratio.

    `optax.lars` applies the learning rate before the momentum, so that its momentum
    contains the rates of earlier steps. Under a schedule the two differ.

    Args:
        schedule: Learning rate by step.
        weight_decay: Factor of the parameter that is added to the gradient; 1e-6 in the
            paper.
        trust_coefficient: Factor of the trust ratio; 0.001 in the official code.
        clip: LARC clipping, as solo-learn's ``clip_lr``: each layer steps at the
            smaller of its trust ratio and the learning rate, so that the schedule only
            caps the step. (solo-learn's trust ratio divides by the sum of the norms of
            gradient and decay, ours by the norm of their sum.)
    """
    trust = (
        _clipped_trust_ratio(schedule, trust_coefficient)
        if clip
        else optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient)
    )
    return optax.chain(
        optax.masked(optax.add_decayed_weights(weight_decay), _not_vectors),
        optax.masked(trust, _not_vectors),
        optax.trace(0.9),
        optax.scale_by_learning_rate(schedule),
    )


def _clipped_trust_ratio(
    schedule: Schedule, coefficient: float
) -> GradientTransformation:
    # Optax's trust ratio does not know the learning rate, by which this one is clipped.
    def init(params):
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        rate = schedule(state.count)

        def scaled(step, param):
            size, length = optax.tree.norm(param), optax.tree.norm(step)
            # At the rate 0 of a first step the quotient is infinite, and clipped.
            trust = jnp.minimum(coefficient * size / (length * rate), 1)
            usable = (size > 0) & (length > 0)
            return step * jnp.where(usable, trust, 1).astype(step.dtype)

        count = optax.safe_increment(state.count)
        return jax.tree.map(scaled, updates, params), state._replace(count=count)

    return optax.GradientTransformation(init, update)


def adamw(schedule: Schedule, *, weight_decay: float) -> GradientTransformation:
    """AdamW that decays matrices and kernels, not biases and batch-norm scales."""
    return optax.adamw(schedule, weight_decay=weight_decay, mask=_not_vectors)


def _not_vectors(params: Params):
    return jax.tree.map(lambda p: p.ndim > 1, params)
