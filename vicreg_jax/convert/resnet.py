"""Loads the encoder or the expander of a PyTorch checkpoint."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from vicreg_jax.convert.parts import Source, Tensors, filled, part
from vicreg_jax.nn import Expander, ResNet
from vicreg_jax.nn.resnet import DEPTHS, Bottleneck

if TYPE_CHECKING:
    from jax.typing import DTypeLike

    from vicreg_jax._types import AxisName

_FIRST = "layer1.0.conv1.weight"
# lightly's examples keep torchvision's ResNet as a Sequential of its children. The
# third and the fourth, ReLU and max-pooling, have no tensors.
_CHILDREN = {"0": "conv1", "1": "bn1"} | {str(3 + i): f"layer{i}" for i in range(1, 5)}
_FIRST_CHILD = "4.0.conv1.weight"


def load_resnet(
    source: Source,
    *,
    prefix: str | None = None,
    dtype: DTypeLike | None = None,
    axis_name: AxisName = None,
) -> ResNet:
    """Returns the ResNet of a checkpoint, in eval mode.

    The network takes images of shape ``(batch, height, width, channels)``, where
    PyTorch's takes ``(batch, channels, height, width)``. Depth, width and stem are
    inferred from the keys. A 3x3 stem is assumed to be solo-learn's, which is padded by
    2; one padded by 1 has the same keys. The classifier "fc." and everything under
    other prefixes are ignored.

    Args:
        source: A file (see `read`) or tensors by name.
        prefix: Prefix of the encoder's keys, such as "backbone." or "module.encoder.".
            None: the only prefix under which there is a ResNet.
        dtype: Dtype of the computation; see `vicreg_jax.nn.layers.Layers`.
        axis_name: See `vicreg_jax.nn.layers.Layers`.

    Raises:
        ValueError: If there is no ResNet, more than one, or one of an unknown depth; or
            if keys are missing, unexpected or of another shape. The error names them.
    """
    found = part(source, prefix, _is_resnet, "a ResNet")
    # Without `_FIRST`, `_is_resnet` has found `_FIRST_CHILD`: children are numbered.
    if _FIRST not in found:
        found = {_named_child(name): value for name, value in found.items()}
    found = {k: v for k, v in found.items() if not k.startswith("fc.")}
    sizes = _architecture(found)
    return filled(partial(ResNet, **sizes, dtype=dtype, axis_name=axis_name), found)


def load_expander(
    source: Source,
    *,
    prefix: str | None = None,
    dtype: DTypeLike | None = None,
    axis_name: AxisName = None,
) -> Expander:
    """Returns the expander (projector) of a checkpoint, in eval mode.

    lightly's has no biases before its batch norms; zero biases are equivalent. The last
    layer of lightly's and solo-learn's has a bias. It shifts all embeddings alike,
    which no term of the loss depends on, so it is ignored.

    Args:
        source: A file (see `read`) or tensors by name.
        prefix: Prefix of the expander's keys, such as "projector.". None: the only
            prefix under which linear layers and batch norms alternate.
        dtype: Dtype of the computation; see `vicreg_jax.nn.layers.Layers`.
        axis_name: See `vicreg_jax.nn.layers.Layers`.

    Raises:
        ValueError: If there is no expander or more than one, or if keys are missing,
            unexpected or of another shape. The error names them.
    """
    found = part(source, prefix, _is_expander, "an expander")
    width, inputs = found["0.weight"].shape
    found.pop("6.bias", None)
    for bias in ("0.bias", "3.bias"):
        found.setdefault(bias, np.zeros(width, np.float32))
    build = partial(Expander, inputs, width, dtype=dtype, axis_name=axis_name)
    return filled(build, found)


def _is_resnet(found: Tensors) -> bool:
    return _FIRST in found or _FIRST_CHILD in found


def _is_expander(found: Tensors) -> bool:
    return (
        "0.weight" in found
        # The first children of lightly's ResNet are a "0" and a batch norm "1" as well,
        # but that "0" is a convolution.
        and found["0.weight"].ndim == 2
        and "1.running_mean" in found
    )


def _named_child(name: str) -> str:
    child, dot, rest = name.partition(".")
    return _CHILDREN.get(child, child) + dot + rest


def _architecture(tensors: Tensors) -> dict[str, Any]:
    """Returns the arguments with which `ResNet` has these keys."""
    paths = [name.split(".") for name in tensors]
    blocks = tuple(
        len({path[1] for path in paths if path[0] == f"layer{stage}" and path[1:]})
        for stage in range(1, 5)
    )
    # ResNet-34 and -50 have equally many blocks.
    deep = "layer1.0.conv3.weight" in tensors
    depths = [
        depth
        for depth, (block, sizes) in DEPTHS.items()
        if sizes == blocks and (block is Bottleneck) == deep
    ]
    if not depths:
        raise ValueError(
            f"`source` must hold a ResNet of depth {', '.join(map(str, DEPTHS))}, got "
            f"{blocks} {'bottleneck' if deep else 'basic'} blocks"
        )
    stem = tensors["conv1.weight"].shape if "conv1.weight" in tensors else None
    if stem is None or len(stem) != 4 or stem[2:] not in ((7, 7), (3, 3)):
        raise ValueError(
            "`conv1.weight` must have shape (width, channels, 7, 7) or, for small "
            f"images, (width, channels, 3, 3), got {stem}"
        )
    return {
        "depth": depths[0],
        "width": stem[0],
        "channels": stem[1],
        "small_images": stem[2] == 3,
    }
