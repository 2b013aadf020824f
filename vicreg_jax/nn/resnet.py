"""ResNet without the classifier, in Flax NNX, with torchvision's layout and names.

He et al., arXiv:1512.03385, in the form that torchvision and facebookresearch/vicreg
train. The stride of a bottleneck is in its 3x3 convolution, and padding is symmetric
("SAME" is not, for a stride of 2). Attributes have torchvision's names (conv1, bn1,
layer1.0.conv1, downsample.0), which `vicreg_jax.convert` relies on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import jax
from flax import nnx

from vicreg_jax.nn.layers import Layers, check_images, mean_of_positions

if TYPE_CHECKING:
    from jax.typing import DTypeLike
    from jaxtyping import Array, Float

    from vicreg_jax._types import AxisName


class Block(nnx.Module):
    """A residual block: a shortcut plus a `residual`, which subclasses define."""

    expansion: ClassVar[int]

    def __init__(self, make: Layers, inputs: int, outputs: int, stride: int):
        # All attributes have torchvision's names, by which `convert` finds parameters.
        self.downsample = (
            nnx.List([make.conv(inputs, outputs, 1, stride), make.norm(outputs)])
            if (inputs, stride) != (outputs, 1)
            else None
        )

    def residual(self, x: jax.Array) -> jax.Array:
        """Returns the residual, which is added to the shortcut."""
        raise NotImplementedError

    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch rows columns outputs"]:
        """Returns the block's feature maps."""
        shortcut = x
        for layer in self.downsample or ():
            shortcut = layer(shortcut)
        # After the addition, not before each convolution as in pre-activation ResNets.
        return jax.nn.relu(self.residual(x) + shortcut)


class BasicBlock(Block):
    """Two 3x3 convolutions: the block of ResNet-18 and -34."""

    expansion = 1

    def __init__(self, make: Layers, inputs: int, width: int, stride: int):
        self.conv1 = make.conv(inputs, width, 3, stride)
        self.bn1 = make.norm(width)
        self.conv2 = make.conv(width, width, 3)
        self.bn2 = make.norm(width, zero=make.zero_residual)
        super().__init__(make, inputs, width, stride)

    def residual(self, x: jax.Array) -> jax.Array:
        """Returns the residual, which is added to the shortcut."""
        return self.bn2(self.conv2(jax.nn.relu(self.bn1(self.conv1(x)))))


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions: the block of ResNet-50 and deeper."""

    expansion = 4

    def __init__(self, make: Layers, inputs: int, width: int, stride: int):
        self.conv1 = make.conv(inputs, width, 1)
        self.bn1 = make.norm(width)
        # The stride is here, as in torchvision; in the ResNet paper it is in conv1.
        self.conv2 = make.conv(width, width, 3, stride)
        self.bn2 = make.norm(width)
        self.conv3 = make.conv(width, 4 * width, 1)
        self.bn3 = make.norm(4 * width, zero=make.zero_residual)
        super().__init__(make, inputs, 4 * width, stride)

    def residual(self, x: jax.Array) -> jax.Array:
        """Returns the residual, which is added to the shortcut."""
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        return self.bn3(self.conv3(jax.nn.relu(self.bn2(self.conv2(x)))))


DEPTHS: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    # Not in torchvision. facebookresearch/vicreg has it at twice the width.
    200: (Bottleneck, (3, 24, 36, 3)),
}


class ResNet(nnx.Module):
    """ResNet-18, -34, -50 and deeper, without the classifier.

    Args:
        depth: 18, 34, 50, 101 or 200.
        width: Channels of the stem. 128 is the paper's "x2".
        channels: Channels of the images.
        small_images: Use a 3x3 stem of stride 1 without max-pooling, for images of
            about 32 pixels a side. It is padded by 2, not 1, as in solo-learn.
        zero_residual: See `Layers`.
        dtype: Dtype of the computation, such as ``jnp.bfloat16``; see `Layers`.
        axis_name: The mapped axis of the devices that share batch statistics; see
            `Layers`.
        rngs: Random number generator of the initial parameters (He's normal, fan-out).

    Attributes:
        out_features: Width of the features: 2048 for ResNet-50, 512 for -18 and -34.

    Raises:
        ValueError: If the depth is not one of these, or a width or channels is below 1.
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        width: int = 64,
        channels: int = 3,
        small_images: bool = False,
        zero_residual: bool = True,
        dtype: DTypeLike | None = None,
        axis_name: AxisName = None,
        rngs: nnx.Rngs,
    ):
        if depth not in DEPTHS:
            raise ValueError(f"`depth` must be one of {list(DEPTHS)}, got {depth!r}")
        for name, value in {"width": width, "channels": channels}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        make = Layers(rngs, dtype, axis_name, zero_residual)
        block, sizes = DEPTHS[depth]
        self.channels, self.small_images = channels, small_images
        self.conv1 = (
            make.conv(channels, width, 3, padding=2)
            if small_images
            else make.conv(channels, width, 7, 2)
        )
        self.bn1 = make.norm(width)
        inputs = width
        stages = []
        for at, blocks in enumerate(sizes):
            planes, stride = width * 2**at, 1 if at == 0 else 2
            first = block(make, inputs, planes, stride)
            inputs = planes * block.expansion
            rest = [block(make, inputs, planes, 1) for _ in range(blocks - 1)]
            stages.append(nnx.List([first, *rest]))
        # Four attributes, not one list, because torchvision names the stages like that.
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.out_features = inputs

    def feature_map(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns features"]:
        """Returns the last feature map of each image, in the layers' dtype."""
        check_images(images, self.channels)
        x = jax.nn.relu(self.bn1(self.conv1(images)))
        if not self.small_images:
            # "SAME" would pad an even side at its end only, and PyTorch pads both ends.
            # Flax accepts pairs, although its annotation says a string.
            both: Any = ((1, 1), (1, 1))
            x = nnx.max_pool(x, (3, 3), (2, 2), both)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = block(x)
        return x

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch features"]:
        """Returns one feature vector for each image, in at least float32.

        It is the mean over the positions of `feature_map`.
        """
        return mean_of_positions(self.feature_map(images))
