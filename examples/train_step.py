"""The smallest complete VICReg training: two views, one loss, one update.

    python examples/train_step.py        # about 10 s on two cores

To use it, replace `load_digits`, `view` and `Network` with your own.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from vicreg_jax import VICRegLoss
from vicreg_jax.nn import Expander

LOSS = VICRegLoss(lambd=25.0, mu=25.0, nu=1.0)
BATCH, STEPS = 256, 200


class Network(nnx.Module):
    """An encoder, which is kept after training, and an expander, which is not."""

    def __init__(self, pixels: int, features: int, dim: int, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(pixels, 256, rngs=rngs)
        self.norm = nnx.BatchNorm(256, rngs=rngs)
        self.features = nnx.Linear(256, features, rngs=rngs)
        self.expander = Expander(features, dim, rngs=rngs)

    def encoder(self, x):
        """Returns the features."""
        return self.features(nnx.relu(self.norm(self.hidden(x))))

    def __call__(self, x):
        """Returns the embeddings for the loss."""
        return self.expander(self.encoder(x))


def view(key, x):
    """Returns a random view: changed contrast, noise, a fifth of the pixels removed."""
    contrast, noise, gone = jax.random.split(key, 3)
    x = x * jax.random.uniform(contrast, (len(x), 1), minval=0.6, maxval=1.4)
    x = x + 0.1 * jax.random.normal(noise, x.shape)
    return jnp.where(jax.random.bernoulli(gone, 0.2, x.shape), 0.0, x)


@nnx.jit
def train_step(model, optimizer, key, x):
    """Updates the model in place and returns the three terms of the loss."""
    x1, x2 = (view(k, x) for k in jax.random.split(key))

    def objective(model):
        terms = LOSS.terms(model(x1), model(x2))
        return terms.weighted_sum(LOSS.lambd, LOSS.mu, LOSS.nu), terms

    gradients, terms = nnx.grad(objective, has_aux=True)(model)
    optimizer.update(model, gradients)
    return terms


pixels, labels = load_digits(return_X_y=True)
pixels = (pixels / 16).astype(np.float32)
few, test = slice(0, 1400, 10), slice(1400, None)
model = Network(64, features=128, dim=256, rngs=nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adamw(1e-3), wrt=nnx.Param)
rng, key = np.random.default_rng(0), jax.random.key(0)
for step in range(STEPS):
    rows = rng.choice(1400, BATCH, replace=False)
    terms = train_step(model, optimizer, jax.random.fold_in(key, step), pixels[rows])
    if step % 40 == 39:
        print(
            step + 1, *(f"{name} {term:.3f}" for name, term in terms._asdict().items())
        )
model.eval()
for name, x in {"VICReg": np.asarray(model.encoder(pixels)), "pixels": pixels}.items():
    probe = LogisticRegression(max_iter=1000).fit(x[few], labels[few])
    print(f"{name}, 10% of the labels: {100 * probe.score(x[test], labels[test]):.1f}%")
