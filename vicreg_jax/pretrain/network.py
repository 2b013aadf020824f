"""The network, learning rate and optimizer of a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from flax import nnx

from vicreg_jax.nn import Expander, VICReg, build_encoder
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


def architecture(config: Config) -> dict[str, Any]:
    """Returns the class of the encoder, as "name", and its arguments."""
    if config.encoder == "small":
        return {
            "name": "SmallResNet",
            "widths": [config.width * factor for factor in (1, 2, 4)],
            "stem_stride": 2 if config.views.size >= 16 else 1,
            "channels": config.channels,
            "dtype": config.dtype,
        }
    return {
        "name": "ResNet",
        "depth": int(config.encoder.removeprefix("resnet")),
        "width": config.width,
        "channels": config.channels,
        "small_images": config.small_images,
        "dtype": config.dtype,
    }


def build(config: Config) -> VICReg:
    """Returns the network with its initial parameters."""
    rngs = nnx.Rngs(config.seed)
    encoder = build_encoder(architecture(config), rngs=rngs)
    expander = Expander(
        encoder.out_features, config.expander, dtype=jnp.dtype(config.dtype), rngs=rngs
    )
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
