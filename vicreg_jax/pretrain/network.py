"""The network, learning rate and optimizer of a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import nnx

from vicreg_jax.nn import Expander, ResNet, SmallResNet, VICReg
from vicreg_jax.optim import (
    WARMUP_EPOCHS,
    adamw,
    lars,
    paper_base_lr,
    scaled_lr,
    warmup_cosine,
)

if TYPE_CHECKING:
    from optax import GradientTransformation, Schedule

    from vicreg_jax.pretrain.config import Config


def build(config: Config) -> VICReg:
    """Returns the network with its initial parameters."""
    rngs = nnx.Rngs(config.seed)
    dtype = jnp.dtype(config.dtype)
    if config.encoder == "small":
        widths = [config.width * factor for factor in (1, 2, 4)]
        encoder = SmallResNet(
            widths,
            stem_stride=2 if config.views.size >= 16 else 1,
            channels=config.channels,
            dtype=dtype,
            rngs=rngs,
        )
    else:
        encoder = ResNet(
            int(config.encoder.removeprefix("resnet")),
            width=config.width,
            channels=config.channels,
            small_images=config.small_images,
            dtype=dtype,
            rngs=rngs,
        )
    expander = Expander(encoder.out_features, config.expander, dtype=dtype, rngs=rngs)
    return VICReg(encoder, expander)


def schedule(config: Config, steps_per_epoch: int) -> Schedule:
    """Returns the learning rate as a function of the step."""
    peak, steps = config.learning_rate, config.epochs * steps_per_epoch
    if peak is None:
        base_lr = paper_base_lr(batch=config.batch, epochs=config.epochs)
        peak = scaled_lr(base_lr, batch=config.batch)
    if config.warmup is None:
        warmup_steps = WARMUP_EPOCHS * steps_per_epoch
    else:
        warmup_steps = round(config.warmup * steps)
    return warmup_cosine(peak, steps=steps, warmup_steps=warmup_steps)


def optimizer(config: Config, rate: Schedule) -> GradientTransformation:
    """Returns the optimizer with the learning rates of `rate`."""
    if config.optimizer == "adamw":
        return adamw(rate, weight_decay=config.weight_decay)
    return lars(
        rate,
        weight_decay=config.weight_decay,
        trust_coefficient=config.trust_coefficient,
        clip=config.clip_trust,
    )
