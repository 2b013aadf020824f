"""The networks of a VICReg run in Flax NNX: encoders and the expander.

resnet: ResNet-18, -34, -50, -101 and -200, as in torchvision.
small: a residual encoder for small images.
expander: the expander, and VICReg's and VICRegL's networks.
layers: the layers that all networks use.
architectures: encoders by name, as files store them.
"""

from vicreg_jax.nn.architectures import ENCODERS as ENCODERS
from vicreg_jax.nn.architectures import build_encoder as build_encoder
from vicreg_jax.nn.expander import Expander as Expander
from vicreg_jax.nn.expander import VICReg as VICReg
from vicreg_jax.nn.expander import VICRegL as VICRegL
from vicreg_jax.nn.resnet import ResNet as ResNet
from vicreg_jax.nn.small import SmallResNet as SmallResNet

__all__ = [
    "ENCODERS",
    "Expander",
    "ResNet",
    "SmallResNet",
    "VICReg",
    "VICRegL",
    "build_encoder",
]
