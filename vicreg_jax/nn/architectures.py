"""Encoders by the name of their class and its arguments, as files store them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from vicreg_jax.nn.convnext import ConvNeXt
from vicreg_jax.nn.resnet import ResNet
from vicreg_jax.nn.small import SmallResNet
from vicreg_jax.nn.vit import ViT

# Files store these names, so a renamed class no longer loads from older files.
ENCODERS = {
    encoder.__name__: encoder for encoder in (ConvNeXt, ResNet, SmallResNet, ViT)
}


def build_encoder(
    architecture: Mapping[str, Any], *, rngs: nnx.Rngs
) -> ConvNeXt | ResNet | SmallResNet | ViT:
    """Returns a new encoder.

    Args:
        architecture: ``name``, a key of `ENCODERS`, and the arguments of that class.
            ``dtype`` may be a string.
        rngs: Random number generator of the initial parameters.

    Raises:
        ValueError: If the name is not a key of `ENCODERS`.
    """
    arguments = dict(architecture)
    name = arguments.pop("name")
    if name not in ENCODERS:
        raise ValueError(f"`name` must be one of {', '.join(ENCODERS)}, got {name!r}")
    # JSON has no dtypes, so files store the name of one.
    if arguments.get("dtype") is not None:
        arguments["dtype"] = jnp.dtype(arguments["dtype"])
    return ENCODERS[name](**arguments, rngs=rngs)
