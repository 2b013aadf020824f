"""The networks of a VICReg run in Flax NNX: encoders and the expander.

resnet: ResNet-18, -34, -50, -101 and -200, as in torchvision.
small: a residual encoder for small images.
expander: the expander, and the encoder with the expander.
layers: the layers that all networks use.
"""

from vicreg_jax.nn.expander import Expander as Expander
from vicreg_jax.nn.expander import VICReg as VICReg
from vicreg_jax.nn.resnet import ResNet as ResNet
from vicreg_jax.nn.small import SmallResNet as SmallResNet

__all__ = ["Expander", "ResNet", "SmallResNet", "VICReg"]
