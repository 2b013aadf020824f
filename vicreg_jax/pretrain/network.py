"""The network, learning rate and optimizer of a configuration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import jax.numpy as jnp
from flax import nnx

from vicreg_jax.augment import LocatedViews
from vicreg_jax.nn import Expander, VICReg, VICRegL, ViT, build_encoder
from vicreg_jax.optim import (
    WARMUP_EPOCHS,
    adamw,
    lars,
    paper_base_lr,
    scaled_lr,
    warmup_cosine,
)
from vicreg_jax.pretrain.errors import UsageError

if TYPE_CHECKING:
    from optax import GradientTransformation, Schedule

    from vicreg_jax.pretrain.config import Config

EncoderFactory: TypeAlias = Callable[[nnx.Rngs], Any]

# ConvNeXt-T, -S and -B of Liu et al., arXiv:2201.03545.
_CONVNEXT: dict[str, dict[str, Any]] = {
    "convnext_tiny": {"name": "ConvNeXt", "depths": [3, 3, 9, 3], "width": 96},
    "convnext_small": {"name": "ConvNeXt", "depths": [3, 3, 27, 3], "width": 96},
    "convnext_base": {"name": "ConvNeXt", "depths": [3, 3, 27, 3], "width": 128},
}
# ViT-S of DeiT (Touvron et al., arXiv:2012.12877), and ViT-B of Dosovitskiy et al.,
# arXiv:2010.11929.
_VIT: dict[str, dict[str, Any]] = {
    "vit_small": {"name": "ViT", "width": 384},
    "vit_base": {"name": "ViT", "width": 768},
}


def architecture(config: Config) -> dict[str, Any]:
    """Returns the class of the encoder, as "name", and its arguments.

    An encoder that was given in Python has its class only. Drop path is not part of it,
    as it matters in training alone.
    """
    # Encoder files store this, and --init compares it entry by entry. An entry that is
    # added here makes --init refuse the files from before.
    if config.encoder_class is not None:
        return {"name": config.encoder_class}
    if config.encoder == "small":
        return {
            "name": "SmallResNet",
            "widths": [config.width * factor for factor in (1, 2, 4)],
            # Of 8x8 pixels a stem of stride 2 and both stages would leave one position.
            "stem_stride": 2 if config.views.size >= 16 else 1,
            "channels": config.channels,
            "dtype": config.dtype,
        }
    image = {"channels": config.channels, "dtype": config.dtype}
    if config.encoder.startswith("resnet"):
        return {
            "name": "ResNet",
            "depth": int(config.encoder.removeprefix("resnet")),
            "width": config.width,
            "small_images": config.small_images,
        } | image
    if config.encoder.startswith("vit"):
        return _VIT[config.encoder] | {"image_size": config.views.size} | image
    return _CONVNEXT[config.encoder] | image


def own_encoder(encoder: nnx.Module | EncoderFactory) -> EncoderFactory:
    """Returns a function that makes the encoder that was given in Python.

    Args:
        encoder: A module, whose parameters are copied, or what makes one: a class with
            the argument ``rngs``, or a function of `flax.nnx.Rngs`.

    Raises:
        TypeError: If it is neither.
    """
    # Before the check for functions, because a module is usually callable.
    if isinstance(encoder, nnx.Module):
        # A copy, because the run donates its arrays and would delete the user's.
        graph, state = nnx.split(encoder)
        return lambda rngs: nnx.merge(graph, state, copy=True)
    if isinstance(encoder, type):
        return lambda rngs: encoder(rngs=rngs)
    if not callable(encoder):
        raise TypeError(
            "`encoder` must be a flax.nnx.Module or a function that returns one, got "
            f"{encoder!r}"
        )
    return encoder


def class_of(encoder: EncoderFactory) -> str:
    """Returns the class of the encoder that a function makes, as module:Class.

    Raises:
        ValueError: If it has no `out_features`, or has state that a run cannot keep.
    """
    # The types are enough, and large encoders take long to initialize.
    module = nnx.eval_shape(lambda: encoder(nnx.Rngs(0)))
    if not isinstance(getattr(module, "out_features", None), int):
        raise ValueError(
            "`encoder` must have `out_features`, the number of its features, got "
            f"{type(module).__name__} without"
        )
    # Checkpoints and the encoder's file have no place for other kinds.
    kinds = {type(leaf) for _, leaf in nnx.to_flat_state(nnx.state(module))}
    kept = nnx.Param | nnx.BatchStat | nnx.RngState
    if others := [kind for kind in kinds if not issubclass(kind, kept)]:
        raise ValueError(
            "`encoder` must have no variables but nnx.Param, nnx.BatchStat and "
            "nnx.RngState, got "
            f"{', '.join(sorted(kind.__name__ for kind in others))} in "
            f"{type(module).__name__}"
        )
    return f"{type(module).__module__}:{type(module).__qualname__}"


def build(config: Config, own: EncoderFactory | None = None) -> VICReg | VICRegL:
    """Returns the network with its initial parameters.

    Raises:
        UsageError: If the run has an encoder that was given in Python, and this call
            has not, or VICRegL gets an encoder without feature maps or views
            without positions.
    """
    # All parts draw from one stream, so the order in which they are made is part of
    # what a seed means.
    rngs = nnx.Rngs(config.seed)
    if own is not None:
        encoder = own(rngs)
    elif config.encoder_class is not None:
        raise UsageError(
            "`encoder` must be given, as this run was trained with an encoder of the "
            f"class {config.encoder_class}, which no command can make; in Python, "
            "vicreg_jax.pretrain.Run.open takes it"
        )
    else:
        described = architecture(config)
        if config.drop_path:
            described["drop_path"] = config.drop_path
        encoder = build_encoder(described, rngs=rngs)
    make = partial(
        Expander, encoder.out_features, dtype=jnp.dtype(config.dtype), rngs=rngs
    )
    if config.alpha is None:
        return VICReg(encoder, make(config.expander))
    _check_local(config, encoder)
    return VICRegL(encoder, make(config.expander), make(config.local_expander))


def _check_local(config: Config, encoder: Any) -> None:
    """Refuses views without positions, and encoders without what VICRegL needs."""
    if not isinstance(config.views, LocatedViews):
        raise UsageError(
            "`views` must be vicreg_jax.augment.LocatedViews with --alpha, such as "
            "views:images, got "
            f"{config.views}"
        )
    if not hasattr(encoder, "feature_map"):
        raise UsageError(
            "`encoder` must have the method `feature_map` with --alpha, got "
            f"{config.encoder_class} without"
        )
    if isinstance(encoder, ViT):
        # Its features are the class token, which no map has.
        raise UsageError(
            "--encoder must be a ResNet, a ConvNeXt or small with --alpha, got "
            f"{config.encoder}: a ViT's features are not the mean of its feature map"
        )


def schedule(config: Config, steps_per_epoch: int) -> Schedule:
    """Returns the learning rate as a function of the step."""
    # --learning-rate is the peak itself. Only the rates of the paper, which are for 256
    # images, are scaled with the batch.
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
