"""Spectra as images of one row, and the encoder and the views that a user writes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vicreg_jax.pretrain.config import Config

# On one device, where a run compiles in two thirds of the time of eight.
QUICK = {"mesh": "data=1", "probe_every": 0, "tensorboard": False, "console": None}


class Spectra(nnx.Module):
    """An encoder that a user writes, for views of shape (batch, 1, 12, 1)."""

    def __init__(self, rngs, hidden=16):
        self.hidden = nnx.Linear(12, hidden, rngs=rngs)
        self.norm = nnx.BatchNorm(hidden, rngs=rngs)
        self.out_features = hidden

    def __call__(self, views):
        rows = views.reshape(len(views), -1)
        return jax.nn.relu(self.norm(self.hidden(rows)))


@dataclasses.dataclass(frozen=True)
class Noise:
    """The views that a user writes."""

    size: int = 12
    noise: float = 0.1

    def pair(self, key, images, aspect):
        plain = self.plain(images, aspect)
        noise = self.noise * jax.random.normal(key, (2, *plain.shape))
        return plain + noise[0], plain + noise[1]

    def plain(self, images, aspect):
        return images.astype(jnp.float32) / 255


def spectra(count=80):
    """Returns spectra of two kinds, as images of one row, and the kinds."""
    random = np.random.default_rng(0)
    kinds = np.arange(count) % 2
    peaks = np.where(kinds[:, None] == 1, np.arange(12) * 20, 200)
    noisy = np.clip(peaks + random.integers(-20, 20, (count, 12)), 0, 255)
    return noisy.astype(np.uint8).reshape(count, 1, 12, 1), kinds


OWN = Config(views=Noise(), batch=32, expander=16, epochs=2)
