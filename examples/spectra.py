"""Data other than images: an array of spectra, with its own views and encoder.

    python examples/spectra.py     # 20 s on two cores

The spectra of four substances lie on random baselines, which are larger than the lines.
Two views differ in the baseline, so the features learn to ignore it.
"""

import tempfile
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vicreg_jax.pretrain import Run, pretrain
from vicreg_jax.pretrain.config import Config

POINTS = 128
AT = np.linspace(0, 1, POINTS)


def baseline(offset, slope, curve):
    """Returns smooth baselines from random numbers between -1 and 1."""
    return 0.5 * (offset + 3 * slope * (AT - 0.5) + curve * np.cos(2 * np.pi * AT))


def measure(count, seed):
    """Returns spectra as uint8 of shape (count, 1, POINTS, 1), and their substances."""
    centers = np.random.default_rng(0).uniform(size=(4, 4, 1))
    lines = np.exp(-(((AT - centers) / 0.012) ** 2)).sum(axis=1)
    rng = np.random.default_rng(seed)
    substances = rng.integers(4, size=count)
    spectra = 1.5 + rng.uniform(0.15, 0.3, (count, 1)) * lines[substances]
    spectra += baseline(*rng.uniform(-1, 1, (3, count, 1)))
    spectra += 0.05 * rng.standard_normal(spectra.shape)
    pixels = np.clip(60 * spectra, 0, 255).astype(np.uint8)
    return pixels.reshape(count, 1, POINTS, 1), substances


@dataclass(frozen=True)
class SpectrumViews:
    """Views with other baselines and noise. The fields are stored with the run."""

    size: int = POINTS
    noise: float = 0.05

    def pair(self, key, images, aspect):
        """Returns two random views of each spectrum."""
        plain = self.plain(images, aspect)
        first, second = jax.random.split(key)
        noise = self.noise * jax.random.normal(first, (2, *plain.shape))
        uniform = jax.random.uniform(second, (3, 2, len(plain), 1, 1), minval=-1)
        x1, x2 = plain + noise + baseline(*uniform)[..., None]
        return x1, x2

    def plain(self, images, aspect):
        """Returns what the probes and `embed` see."""
        return images.astype(jnp.float32) / 60


class SpectrumEncoder(nnx.Module):
    """A convolution along the spectrum, and a linear layer."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 16, (1, 7), strides=(1, 2), rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.linear = nnx.Linear(16 * POINTS // 2, 64, rngs=rngs)
        self.out_features = 64  # the run reads it

    def __call__(self, views):
        """Returns the features, shape (batch, 64)."""
        x = nnx.relu(self.norm(self.conv(views)))
        return self.linear(x.reshape(len(x), -1))


def main():
    """Pretrains, evaluates, and embeds new spectra."""
    config = Config(views=SpectrumViews(), expander=128, epochs=10, learning_rate=3e-3)
    own = {"data": measure(1280, seed=1), "encoder": SpectrumEncoder}
    run = pretrain(config, out=tempfile.mkdtemp(), probe_every=0, **own)
    for features, accuracies in (run.evaluation or {}).items():
        print(f"{features}: k-NN {100 * accuracies['k-NN']:.1f}%")
    # Later, in another program. The run's file does not hold the encoder's class.
    encoder = Run.open(run.run_folder, encoder=SpectrumEncoder).encoder
    print("features of new spectra:", encoder.embed(measure(5, seed=2)[0]).shape)


if __name__ == "__main__":
    main()
