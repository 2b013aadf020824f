"""A Flax Linen training step with `TrainState` and batch statistics.

python examples/linen_step.py     # a few seconds on two cores
"""

from typing import Any

import jax
import optax
from flax import linen as nn
from flax.training import train_state

from vicreg_jax import VICRegLoss

LOSS = VICRegLoss(lambd=25.0, mu=25.0, nu=1.0)


class Network(nn.Module):
    """An encoder of one layer, and the expander."""

    @nn.compact
    def __call__(self, x):
        """Returns the embeddings of one view."""
        for width in (128, 256, 256):
            x = nn.relu(nn.BatchNorm(use_running_average=False)(nn.Dense(width)(x)))
        return nn.Dense(256, use_bias=False)(x)


class TrainState(train_state.TrainState):
    """Parameters, optimizer state and batch statistics."""

    batch_stats: Any


@jax.jit
def train_step(state, x1, x2):
    """Returns the new state and the three terms of the loss."""

    def objective(params):
        stats, embeddings = state.batch_stats, []
        # One view after the other, so that batch norm sees each view by itself.
        for x in (x1, x2):
            variables = {"params": params, "batch_stats": stats}
            z, changed = state.apply_fn(variables, x, mutable=["batch_stats"])
            stats = changed["batch_stats"]
            embeddings.append(z)
        terms = LOSS.terms(*embeddings)
        value = terms.weighted_sum(LOSS.lambd, LOSS.mu, LOSS.nu)
        return value, (terms, stats)

    gradients, (terms, stats) = jax.grad(objective, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradients, batch_stats=stats), terms


def main():
    """Trains on noisy copies of random samples."""
    samples = jax.random.normal(jax.random.key(0), (64, 32))
    variables = Network().init(jax.random.key(1), samples)
    state = TrainState.create(
        apply_fn=Network().apply,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        tx=optax.adamw(1e-3),
    )
    for step in range(100):
        noise = jax.random.normal(jax.random.key(2 + step), (2, *samples.shape))
        x1, x2 = samples + 0.3 * noise
        state, terms = train_step(state, x1, x2)
        if step % 33 == 0:
            print(step, *(f"{k} {float(v):.3f}" for k, v in terms._asdict().items()))


if __name__ == "__main__":
    main()
