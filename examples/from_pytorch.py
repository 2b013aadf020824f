"""An encoder from PyTorch, pretrained further, and taken back to PyTorch.

    python examples/from_pytorch.py     # 40 s on two cores; needs torch, scikit-image

To use it, replace `resnet18(WIDTH)` with your encoder, such as
`torchvision.models.resnet18()`, whose width is 64, and the images with yours.
"""

import argparse
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import torch
from safetensors.torch import load_file
from skimage.data import astronaut
from torch_resnet import resnet18

from vicreg_jax.augment import ImageViews
from vicreg_jax.encoder import Encoder, load_encoder
from vicreg_jax.pretrain import pretrain
from vicreg_jax.pretrain.config import Config

WIDTH = 8


def embed_in_torch(model, encoder: Encoder, images):
    """Returns the features in PyTorch of what the encoder in JAX sees."""
    aspect = jnp.ones(len(images))
    plain = np.array(encoder.views.plain(jnp.asarray(images), aspect))
    model.eval()
    with torch.no_grad():
        return model(torch.from_numpy(plain).permute(0, 3, 1, 2)).numpy()


def compare(what, model, encoder, images):
    """Prints how far the features in JAX and in PyTorch are apart."""
    in_torch = embed_in_torch(model, encoder, images)
    apart = np.abs(encoder.embed(images) - in_torch).max() / np.abs(in_torch).max()
    print(f"{what}: features {in_torch.shape}, differ by {apart:.0e}")


def main(epochs: int):
    """Goes to JAX and back, and compares the features on both sides."""
    out = Path(tempfile.mkdtemp())
    parts = astronaut().reshape(16, 32, 16, 32, 3).swapaxes(1, 2)
    images = parts.reshape(256, 32, 32, 3)

    # 1. From PyTorch. A .pth file of a training script works as well as safetensors.
    file = out / "resnet18.pth"
    model = resnet18(WIDTH)
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, file)
    compare("from PyTorch", model, load_encoder(file), images[:8])

    # 2. Further pretraining: `--init` on the command line.
    views = ImageViews(size=32, scale=(0.2, 1.0), blur=(0.0, 0.0))
    config = Config(
        views=views,
        encoder="resnet18",
        width=WIDTH,
        init=str(file),
        learning_rate=1e-3,
        epochs=epochs,
    )
    run = pretrain(config, data=images, out=out / "run", probe_every=0)

    # 3. Back to PyTorch. The run's file has torchvision's names and layout.
    before = embed_in_torch(model, run.encoder, images[:8])
    model.load_state_dict(load_file(run.run_folder / "encoder.safetensors"))
    compare("back in PyTorch", model, run.encoder, images[:8])
    moved = np.abs(embed_in_torch(model, run.encoder, images[:8]) - before).max()
    print(f"pretraining moved the features by {moved:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    main(parser.parse_args().epochs)
