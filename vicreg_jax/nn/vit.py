"""ViT without the classifier, in Flax NNX, with timm's layout and names.

Dosovitskiy et al., arXiv:2010.11929. Attributes have timm's names (patch_embed.proj,
cls_token, pos_embed, blocks.0.attn.qkv, mlp.fc1), which `vicreg_jax.convert` relies on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from vicreg_jax.nn.layers import check_images, wide_dtype
from vicreg_jax.nn.timm_layers import NORMAL, Mlp, TimmLayers, drop_rates

if TYPE_CHECKING:
    from jax.typing import DTypeLike
    from jaxtyping import Array, Float

_HEAD = 64  # width of a head in ViT-S and ViT-B


class Attention(nnx.Module):
    """Multi-head self-attention, with one linear layer for queries, keys and values.

    Args:
        make: Makes the layers.
        features: Width of the tokens.
        heads: Number of heads.
    """

    def __init__(self, make: TimmLayers, features: int, heads: int):
        self.heads = heads
        self.qkv = make.linear(features, 3 * features)
        self.proj = make.linear(features, features)

    def __call__(
        self, x: Float[Array, "batch tokens features"]
    ) -> Float[Array, "batch tokens features"]:
        """Returns the new tokens. The softmax is in float32."""
        # timm's order: all queries, all keys, all values; in each, head by head.
        split = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, -1)
        # JAX computes this softmax in float32 even for float64 inputs, so features in
        # float64 agree with timm's to the rounding of float32 only.
        y = jax.nn.dot_product_attention(*(split[:, :, part] for part in range(3)))
        return self.proj(y.reshape(x.shape))


class ViTBlock(nnx.Module):
    """Attention and an MLP, each after a layer norm and added to its input.

    Args:
        make: Makes the layers.
        features: Width of the tokens.
        heads: Number of heads.
        drop_path: Probability that a sample skips a residual in training.
    """

    def __init__(self, make: TimmLayers, features: int, heads: int, drop_path: float):
        self.norm1 = make.norm(features)
        self.attn = Attention(make, features, heads)
        self.drop_path1 = make.drop_path(drop_path, dims=3)
        self.norm2 = make.norm(features)
        self.mlp = Mlp(make, features)
        self.drop_path2 = make.drop_path(drop_path, dims=3)

    def __call__(
        self, x: Float[Array, "batch tokens features"]
    ) -> Float[Array, "batch tokens features"]:
        """Returns the new tokens."""
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class ViT(nnx.Module):
    """ViT without the classifier. Its features are those of the class token.

    Args:
        image_size: Side of the images in pixels, which have learned positions.
        patch_size: Side of the patches in pixels.
        width: Width of the tokens: 384 for ViT-S, 768 for ViT-B.
        depth: Number of blocks.
        heads: Number of heads. None: one for each 64 of `width`, as in ViT-S and -B.
        channels: Channels of the images.
        drop_path: Probability that a sample skips the last block in training. It rises
            linearly from 0 over the blocks.
        dtype: Dtype of the computation, such as ``jnp.bfloat16``; see `TimmLayers`.
        rngs: Random number generator of the initial parameters and of drop path.

    Attributes:
        out_features: Width of the features, which is `width`.

    Raises:
        ValueError: If a size is below 1 or not a multiple of what divides it, or
            `drop_path` is out of range.
    """

    def __init__(
        self,
        image_size: int = 224,
        *,
        patch_size: int = 16,
        width: int = 384,
        depth: int = 12,
        heads: int | None = None,
        channels: int = 3,
        drop_path: float = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        for name, value in {"depth": depth, "channels": channels}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        _check_multiple("image_size", image_size, "patch_size", patch_size)
        if heads is None:
            if width % _HEAD:
                raise ValueError(
                    f"`heads` must be given if `width` is not a multiple of {_HEAD}, "
                    f"got a width of {width}"
                )
            heads = width // _HEAD
        _check_multiple("width", width, "heads", heads)
        make = TimmLayers(rngs, dtype)
        positions = (image_size // patch_size) ** 2
        self.image_size, self.channels = image_size, channels
        # A dict, because timm's name is patch_embed.proj.
        self.patch_embed = nnx.Dict(proj=make.patches(channels, width, patch_size))
        # timm draws it with a standard deviation of 1e-6, which is as good as zero.
        self.cls_token = nnx.Param(jnp.zeros((1, 1, width), jnp.float32))
        # The class token has a position too, as in timm unless `no_embed_class` is set.
        shape = 1, 1 + positions, width
        self.pos_embed = nnx.Param(NORMAL(rngs.params(), shape, jnp.float32))
        self.blocks = nnx.List(
            [
                ViTBlock(make, width, heads, rate)
                for rate in drop_rates(drop_path, depth)
            ]
        )
        self.norm = make.norm(width)
        self.out_features = width

    def tokens(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch tokens features"]:
        """Returns the class token and one token for each patch, row by row."""
        # The positions are learned for one size, and are not interpolated for others.
        check_images(images, self.channels, side=self.image_size)
        x = self.patch_embed["proj"](images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        first = self.cls_token[...].astype(x.dtype)
        first = jnp.broadcast_to(first, (x.shape[0], *first.shape[1:]))
        # In the dtype of the patches: a float32 addend would promote all that follows.
        x = jnp.concatenate([first, x], axis=1) + self.pos_embed[...].astype(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def feature_map(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns features"]:
        """Returns the patches' tokens at their places, in the layers' dtype."""
        patches = self.tokens(images)[:, 1:]
        side = round(patches.shape[1] ** 0.5)
        return patches.reshape(-1, side, side, self.out_features)

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch features"]:
        """Returns the class token of each image, in at least float32."""
        x = self.tokens(images)[:, 0]
        return x.astype(wide_dtype(x))


def _check_multiple(name: str, value: int, of: str, unit: int) -> None:
    if unit < 1:
        raise ValueError(f"`{of}` must be at least 1, got {unit}")
    if value < 1 or value % unit:
        raise ValueError(f"`{name}` must be a multiple of `{of}`, {unit}, got {value}")
