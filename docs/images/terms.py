"""Draws terms.png: what each term of the loss does to embeddings in two dimensions.

python docs/images/terms.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from vicreg_jax import vicreg_loss, vicreg_terms

SAMPLES, STEPS = 120, 400
WEIGHTS = {
    "start": None,
    "invariance": (25, 0, 0),
    "+ variance": (25, 25, 0),
    "+ covariance": (25, 25, 25),
}


def start():
    """Two views of correlated samples: narrow, and apart by some noise."""
    samples, noise = jax.random.key(0), jax.random.key(1)
    x = jax.random.normal(samples, (SAMPLES, 2)) @ jnp.array([[0.5, 0.4], [0.0, 0.2]])
    return x + 0.12 * jax.random.normal(noise, (2, SAMPLES, 2))


@jax.jit
def trained(views, weights):
    """The views after gradient descent on the loss."""

    def step(views, _):
        gradient = jax.grad(lambda v: vicreg_loss(v[0], v[1], *weights))(views)
        # The loss is a mean over samples, so the step is scaled back to each sample.
        return views - 2e-3 * SAMPLES * gradient, None

    return jax.lax.scan(step, views, length=STEPS)[0]


def draw(axes, views, title):
    """Draws a line between the two views of each sample."""
    color = plt.get_cmap("viridis")(jnp.linspace(0, 1, SAMPLES))
    order = jnp.argsort(start().mean(0) @ jnp.ones(2))
    for i, c in zip(order, color, strict=True):
        axes.plot(*views[:, i].T, "-o", color=c, markersize=2.5, linewidth=1)
    terms = [f"{float(term):.2f}" for term in vicreg_terms(*views)]
    axes.set_title(title)
    axes.set_xlabel("s {}   v {}   c {}".format(*terms))
    axes.set(xlim=(-3.6, 3.6), ylim=(-3.6, 3.6), xticks=[], yticks=[], aspect="equal")


def main():
    """Writes the picture beside this file."""
    figure, axes = plt.subplots(1, len(WEIGHTS), figsize=(11, 3.2))
    for panel, (title, weights) in zip(axes, WEIGHTS.items(), strict=True):
        draw(panel, start() if weights is None else trained(start(), weights), title)
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("terms.png"), dpi=130)


if __name__ == "__main__":
    main()
