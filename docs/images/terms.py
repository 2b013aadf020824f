"""Draws what each term of the loss does to embeddings in two dimensions.

python docs/images/terms.py    # writes terms.png
"""

from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from vicreg_jax import vicreg_loss, vicreg_terms

SAMPLES, STEPS = 50, 400
WEIGHTS = {
    "invariance": (25, 0, 0),
    "+ variance": (25, 25, 0),
    "+ covariance": (25, 25, 25),
}


def start():
    """Returns two views of correlated samples: narrow, and apart by some noise."""
    samples, noise = jax.random.key(0), jax.random.key(1)
    x = jax.random.normal(samples, (SAMPLES, 2)) @ jnp.array([[0.6, 0.5], [0.0, 0.2]])
    return x + 0.25 * jax.random.normal(noise, (2, SAMPLES, 2))


def trained(views, weights, steps=STEPS):
    """Returns the views after gradient descent on the loss."""
    gradient = jax.jit(jax.grad(lambda v: vicreg_loss(v[0], v[1], *weights)))
    for _ in range(steps):
        # The loss is a mean over samples, so the step is scaled back to each sample.
        views = views - 2e-3 * SAMPLES * gradient(views)
    return views


def draw(axes, views, title):
    """Draws a line between the two views of each sample."""
    color = plt.get_cmap("viridis")(jnp.linspace(0, 1, SAMPLES))
    order = jnp.argsort(start().mean(0) @ jnp.ones(2))
    for i, c in zip(order, color, strict=True):
        axes.plot(*views[:, i].T, "-o", color=c, markersize=3, linewidth=1)
    terms = [f"{float(term):.2f}" for term in vicreg_terms(*views)]
    axes.set_title(title, fontsize=14)
    axes.set_xlabel("s {}  v {}  c {}".format(*terms), fontsize=13)
    axes.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal")


def overview():
    """Returns one row: the start, and the end under one, two and three terms."""
    figure, axes = plt.subplots(1, 1 + len(WEIGHTS), figsize=(10, 3.1))
    draw(axes[0], start(), "start")
    for panel, (title, weights) in zip(axes[1:], WEIGHTS.items(), strict=True):
        draw(panel, trained(start(), weights), title)
    figure.tight_layout()
    return figure


def strip(weights, at=(0, 5, 400)):
    """Returns one row: the same samples after each number of steps in `at`."""
    figure, axes = plt.subplots(1, len(at), figsize=(8.2, 3.2))
    views = start()
    for panel, (before, step) in zip(axes, pairwise((0, *at)), strict=True):
        views = trained(views, weights, step - before)
        draw(panel, views, f"step {step}")
    figure.tight_layout()
    return figure


def main():
    """Writes the overview beside this file."""
    overview().savefig(Path(__file__).with_name("terms.png"), dpi=140)


if __name__ == "__main__":
    main()
