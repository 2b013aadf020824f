"""The networks of a VICReg run, in Flax NNX: an encoder and an expander.

layers: the layers that all are made of.
resnet: ResNet-18, -34, -50 and deeper, as torchvision's.
small: an encoder for small images.
expander: the expander, and the encoder with it.
"""

from vicreg_jax.nn.expander import Expander as Expander
from vicreg_jax.nn.expander import VICReg as VICReg
from vicreg_jax.nn.resnet import ResNet as ResNet
from vicreg_jax.nn.small import SmallResNet as SmallResNet
