"""The expander, and the networks of VICReg and VICRegL: an encoder with expanders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
from flax import nnx

from vicreg_jax.nn.convnext import ConvNeXt
from vicreg_jax.nn.layers import Layers, mean_of_positions
from vicreg_jax.nn.vit import ViT

if TYPE_CHECKING:
    from jax.typing import DTypeLike
    from jaxtyping import Array, Float

    from vicreg_jax._types import AxisName


class Expander(nnx.Module):
    """Linear-BN-ReLU, Linear-BN-ReLU, Linear without bias (the paper, section 4.2).

    The first two linear layers have a bias, as in facebookresearch/vicreg, although
    the batch norm that follows removes it.

    Args:
        inputs: Width of the features.
        width: Width of both hidden layers and of the embeddings.
        dtype: Dtype of the computation and of the embeddings, such as
            ``jnp.bfloat16``; see `Layers`.
        axis_name: The mapped axis of the devices that share batch statistics; see
            `Layers`.
        rngs: Random number generator of the initial parameters.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        dtype: DTypeLike | None = None,
        axis_name: AxisName = None,
        rngs: nnx.Rngs,
    ):
        make = Layers(rngs, dtype, axis_name)
        self.linear1 = make.linear(inputs, width)
        self.norm1 = make.norm(width)
        self.linear2 = make.linear(width, width)
        self.norm2 = make.norm(width)
        # A bias here would shift all embeddings alike, which no term of the loss sees.
        self.linear3 = make.linear(width, width, bias=False)

    def __call__(
        self, features: Float[Array, "batch *positions features"]
    ) -> Float[Array, "batch *positions dim"]:
        """Returns the embeddings for the loss, of each position on its own."""
        x = jax.nn.relu(self.norm1(self.linear1(features)))
        return self.linear3(jax.nn.relu(self.norm2(self.linear2(x))))


class VICReg(nnx.Module):
    """Encoder and expander: images in, embeddings out.

    Only the encoder is kept after pretraining.
    """

    def __init__(self, encoder: nnx.Module, expander: nnx.Module):
        # `convert` translates these names to the official "backbone" and "projector".
        self.encoder = encoder
        self.expander = expander

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch dim"]:
        """Returns one embedding for each image."""
        # Call it once for each view, as the official code does. In one call for both,
        # batch norms would mix the statistics of the views.
        return self.expander(self.encoder(images))


class VICRegL(nnx.Module):
    """Encoder and two expanders: images in, embeddings and feature maps out.

    The local expander, a projector in VICRegL's words, is one network for all
    positions. Its batch norms take their statistics over images and positions. Only the
    encoder is kept after pretraining.

    Args:
        encoder: An encoder of `vicreg_jax.nn`, or another module with the method
            ``feature_map(images)``, whose features are the mean of that map. Those of a
            `ViT`, and of a `ConvNeXt` with ``norm_pooled``, are not.
        expander: Expander for the features, whose output the global loss takes.
        local_expander: Expander for each position of the map, for the local loss.

    Raises:
        ValueError: If `encoder` is one of those whose features are not that mean.

    Reference:
        Bardes et al., VICRegL, https://arxiv.org/abs/2210.01571, figure 1.
    """

    def __init__(self, encoder: Any, expander: Expander, local_expander: Expander):
        _check_features(encoder)
        self.encoder = encoder
        self.expander = expander
        self.local_expander = local_expander

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> tuple[Float[Array, "batch dim"], Float[Array, "batch rows columns local_dim"]]:
        """Returns the embedding and the embedded feature map of each image."""
        # The mean of the map is the encoder's features, so nothing is computed twice.
        maps = self.encoder.feature_map(images)
        return self.expander(mean_of_positions(maps)), self.local_expander(maps)


def _check_features(encoder: Any) -> None:
    """Refuses encoders that are known to return something else than their map's mean.

    The expander would be trained on features that the encoder alone does not return.
    """
    if isinstance(encoder, ViT):
        found = "a ViT, whose features are the class token"
    elif isinstance(encoder, ConvNeXt) and encoder.head is not None:
        found = "a ConvNeXt with `norm_pooled`, which normalizes the mean"
    else:
        return
    raise ValueError(
        f"`encoder` must have features that are the mean of its map, got {found}"
    )
