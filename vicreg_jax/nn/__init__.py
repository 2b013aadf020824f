"""The networks of a VICReg run in Flax NNX: encoders and the expander.

resnet: ResNet-18, -34, -50 and -101, as in torchvision, and ResNet-200.
convnext: ConvNeXt, as in VICRegL and timm.
vit: ViT, as in timm.
small: a residual encoder for small images.
expander: the expander, and VICReg's and VICRegL's networks.
layers: the layers of ResNets and the expander, and what all networks share.
small_maps: convolutions of maps that are smaller than their kernels.
timm_layers: the layers that ConvNeXt and ViT share.
architectures: encoders by name, as files store them.
"""

from vicreg_jax.nn.architectures import ENCODERS as ENCODERS
from vicreg_jax.nn.architectures import build_encoder as build_encoder
from vicreg_jax.nn.convnext import ConvNeXt as ConvNeXt
from vicreg_jax.nn.expander import Expander as Expander
from vicreg_jax.nn.expander import VICReg as VICReg
from vicreg_jax.nn.expander import VICRegL as VICRegL
from vicreg_jax.nn.resnet import ResNet as ResNet
from vicreg_jax.nn.small import SmallResNet as SmallResNet
from vicreg_jax.nn.vit import ViT as ViT

__all__ = [
    "ENCODERS",
    "ConvNeXt",
    "Expander",
    "ResNet",
    "SmallResNet",
    "VICReg",
    "VICRegL",
    "ViT",
    "build_encoder",
]
