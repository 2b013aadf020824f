"""PyTorch checkpoints to the networks of `vicreg_jax.nn`, and back.

    encoder = load_resnet("resnet50.pth")                 # features out
    write("resnet50.safetensors", state_dict(encoder))    # torchvision's names

resnet: the ResNet or the expander of a checkpoint, with sizes inferred from its keys.
timm: the ConvNeXt or the ViT of a checkpoint with timm's names.
parts: the part of a checkpoint that is one network.
names: parameters in PyTorch's names and layout, both ways.
files: tensors by name, read from a file and written to one.
"""

from vicreg_jax.convert.files import read as read
from vicreg_jax.convert.files import write as write
from vicreg_jax.convert.names import load_state_dict as load_state_dict
from vicreg_jax.convert.names import state_dict as state_dict
from vicreg_jax.convert.resnet import load_expander as load_expander
from vicreg_jax.convert.resnet import load_resnet as load_resnet
from vicreg_jax.convert.timm import load_convnext as load_convnext
from vicreg_jax.convert.timm import load_vit as load_vit

__all__ = [
    "load_convnext",
    "load_expander",
    "load_resnet",
    "load_state_dict",
    "load_vit",
    "read",
    "state_dict",
    "write",
]
