"""Loads the ConvNeXt or the ViT of a PyTorch checkpoint with timm's names."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from vicreg_jax.convert.parts import Source, Tensors, filled, part
from vicreg_jax.nn import ConvNeXt, ViT

if TYPE_CHECKING:
    from jax.typing import DTypeLike

# The names of facebookresearch/ConvNeXt and VICRegL, and timm's. Both projects call the
# last layer norm "norm"; VICRegL, which has no layer scale, applies it to the map.
_OFFICIAL = {
    # The order matters: a stem is also one of the downsampling layers, and after the
    # blocks only the downsampling layers of a stage begin with a number.
    r"downsample_layers\.0\.": "stem.",
    r"downsample_layers\.": "stages.",
    r"(stages\.\d+)\.(\d+\.(?=dwconv|norm|pwconv|gamma))": r"\1.blocks.\2",
    r"(stages\.\d+)\.(\d+\.\w+)$": r"\1.downsample.\2",
    "dwconv": "conv_dw",
    r"pwconv(\d)": r"mlp.fc\1",
}


def load_convnext(
    source: Source, *, prefix: str | None = None, dtype: DTypeLike | None = None
) -> ConvNeXt:
    """Returns the ConvNeXt of a checkpoint, in eval mode.

    The network takes images of shape ``(batch, height, width, channels)``, where
    PyTorch's takes ``(batch, channels, height, width)``. Sizes, layer scale and the
    place of the last layer norm are inferred from the keys. The names may be those of
    timm, of facebookresearch/ConvNeXt or of VICRegL. The classifier "head.fc." or
    "head." and everything under other prefixes are ignored.

    Args:
        source: A file (see `read`) or tensors by name.
        prefix: Prefix of the encoder's keys, such as "backbone.". None: the only prefix
            under which there is a ConvNeXt.
        dtype: Dtype of the computation; see `vicreg_jax.nn.timm_layers.TimmLayers`.

    Raises:
        ValueError: If there is no ConvNeXt or more than one, or if keys are missing,
            unexpected or of another shape. The error names them.
    """
    found = part(source, prefix, _is_convnext, "a ConvNeXt")
    if "stem.0.weight" not in found:
        found = _in_timms_names(found)
    found = {k: v for k, v in found.items() if not re.match(r"head\.(?!norm)", k)}
    depths = [_blocks(found, f"stages.{stage}.blocks.") for stage in range(4)]
    width, channels = found["stem.0.weight"].shape[:2]
    sizes: dict[str, Any] = {"depths": depths, "width": width, "channels": channels}
    # Any number will do, since the checkpoint has the values.
    sizes["layer_scale"] = 1e-6 if "stages.0.blocks.0.gamma" in found else None
    sizes["norm_pooled"] = "head.norm.weight" in found
    return filled(partial(ConvNeXt, **sizes, dtype=dtype), found)


def load_vit(
    source: Source,
    *,
    prefix: str | None = None,
    heads: int | None = None,
    dtype: DTypeLike | None = None,
) -> ViT:
    """Returns the ViT of a checkpoint, in eval mode.

    Sizes are inferred from the keys, but for the number of heads. Layout of the images
    and ignored keys are those of `load_convnext`. Networks with other tokens than
    patches and one class token are refused. The network must be for square images,
    because the keys do not tell a grid of 2x8 patches from one of 4x4.

    Args:
        source: A file (see `read`) or tensors by name.
        prefix: Prefix of the encoder's keys; see `load_convnext`.
        heads: Number of heads. None: one for each 64 of the width, as in ViT-S and -B.
        dtype: Dtype of the computation; see `vicreg_jax.nn.timm_layers.TimmLayers`.

    Raises:
        ValueError: See `load_convnext`.
    """
    found = part(source, prefix, _is_vit, "a ViT")
    found = {k: v for k, v in found.items() if not k.startswith("head.")}
    width, channels, patch_size, _ = found["patch_embed.proj.weight"].shape
    side = round((found["pos_embed"].shape[1] - 1) ** 0.5)
    build = partial(
        ViT,
        side * patch_size,
        patch_size=patch_size,
        width=width,
        depth=_blocks(found, "blocks."),
        # No tensor's shape depends on the number of heads.
        heads=heads,
        channels=channels,
        dtype=dtype,
    )
    return filled(build, found)


def _is_convnext(found: Tensors) -> bool:
    timms = {"stem.0.weight", "stages.0.blocks.0.conv_dw.weight"}
    official = {"downsample_layers.0.0.weight", "stages.0.0.dwconv.weight"}
    return timms <= found.keys() or official <= found.keys()


def _is_vit(found: Tensors) -> bool:
    return "patch_embed.proj.weight" in found and "pos_embed" in found


def _in_timms_names(found: Tensors) -> Tensors:
    scaled = "stages.0.0.gamma" in found
    final = {r"^norm\.": "head.norm." if scaled else "norm_pre."}
    renamed = {}
    for name, value in found.items():
        for pattern, replacement in (_OFFICIAL | final).items():
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def _blocks(found: Tensors, start: str) -> int:
    """Returns the number of blocks whose names begin with `start` and a number."""
    matches = (re.match(rf"{re.escape(start)}(\d+)\.", name) for name in found)
    return len({match[1] for match in matches if match})
