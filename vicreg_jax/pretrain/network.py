"""From a configuration to its network, its views and its optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import nnx

from vicreg_jax.augment import DigitViews
from vicreg_jax.nn import Expander, ResNet, SmallResNet, VICReg
from vicreg_jax.optim import (
    adamw,
    lars,
    paper_base_lr,
    paper_schedule,
    warmup_cosine,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray
    from optax import GradientTransformation, Schedule

    from vicreg_jax.pretrain.config import Config


def build(config: Config) -> VICReg:
    """Returns the untrained network."""
    rngs = nnx.Rngs(config.seed)
    dtype = jnp.dtype(config.dtype)
    if config.encoder == "small":
        widths = [config.width * factor for factor in (1, 2, 4)]
        encoder = SmallResNet(
            widths,
            stem_stride=2 if view_size(config) >= 16 else 1,
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


def view_size(config: Config) -> int:
    """Returns the side of a view in pixels."""
    views = config.views
    return config.size if isinstance(views, DigitViews) else views.size


def draw_views(
    config: Config, key: PRNGKeyArray, images: Array, aspect: Float[Array, " batch"]
) -> tuple[Array, Array]:
    """Returns two random views of each uint8 image."""
    if isinstance(config.views, DigitViews):
        return config.views.pair(key, _unit(images))
    return config.views.pair(key, images, aspect)


def plain_view(config: Config, images: Array, aspect: Float[Array, " batch"]) -> Array:
    """Returns what the frozen encoder is shown of each uint8 image."""
    if isinstance(config.views, DigitViews):
        return _unit(images)
    return config.views.plain(images, aspect)


def schedule(config: Config, steps_per_epoch: int) -> Schedule:
    """Returns the learning rate by step."""
    per_256 = config.batch / 256
    base_lr = (
        paper_base_lr(batch=config.batch, epochs=config.epochs)
        if config.learning_rate is None
        else config.learning_rate / per_256
    )
    if config.warmup is None:
        return paper_schedule(
            base_lr,
            batch=config.batch,
            epochs=config.epochs,
            epoch_steps=steps_per_epoch,
        )
    steps = config.epochs * steps_per_epoch
    return warmup_cosine(
        base_lr * per_256, steps=steps, warmup_steps=round(config.warmup * steps)
    )


def optimizer(config: Config, rate: Schedule) -> GradientTransformation:
    """Returns the optimizer at the learning rates of `rate`."""
    if config.optimizer == "adamw":
        return adamw(rate, weight_decay=config.weight_decay)
    return lars(
        rate,
        weight_decay=config.weight_decay,
        trust_coefficient=config.trust_coefficient,
        clip=config.clip_trust,
    )


def _unit(images):
    return images.astype(jnp.float32) / 255
