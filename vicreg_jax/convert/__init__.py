"""PyTorch checkpoints to the networks of `vicreg_jax.nn`, and back.

    encoder = load_resnet("resnet50.pth")                 # features out
    write("resnet50.safetensors", state_dict(encoder))    # torchvision's names

load: the encoder or the expander of a checkpoint, its sizes read off the keys.
names: a network's parameters in PyTorch's names and layout, and back.
files: tensors by name from a file, and to one.
"""

from vicreg_jax.convert.files import read as read
from vicreg_jax.convert.files import write as write
from vicreg_jax.convert.load import load_expander as load_expander
from vicreg_jax.convert.load import load_resnet as load_resnet
from vicreg_jax.convert.names import load_state_dict as load_state_dict
from vicreg_jax.convert.names import state_dict as state_dict
