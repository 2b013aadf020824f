"""An Equinox training step, with a loss whose weights are not trained.

pip install equinox && python examples/equinox_step.py     # a few seconds
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from vicreg_jax import VICRegLoss


class Model(eqx.Module):
    """The network and the loss in one module."""

    network: eqx.nn.MLP
    loss: VICRegLoss

    def __call__(self, x1, x2):
        """Returns the loss of two views."""
        return self.loss(jax.vmap(self.network)(x1), jax.vmap(self.network)(x2))


def trained_part(model):
    """Returns which leaves to train.

    `VICRegLoss` is a pytree whose leaves are its weights. As JAX arrays they would get
    gradients like parameters, and minimizing the loss would lower them.
    """
    only_network = jax.tree.map(lambda _: False, model)
    return eqx.tree_at(
        lambda m: m.network,
        only_network,
        jax.tree.map(eqx.is_inexact_array, model.network),
    )


@eqx.filter_jit
def train_step(model, state, optimizer, x1, x2):
    """Returns the new model, the optimizer's state and the loss."""
    trained, fixed = eqx.partition(model, trained_part(model))
    value, gradients = eqx.filter_value_and_grad(
        lambda trained: eqx.combine(trained, fixed)(x1, x2)
    )(trained)
    updates, state = optimizer.update(gradients, state, trained)
    return eqx.combine(eqx.apply_updates(trained, updates), fixed), state, value


def main():
    """Trains on noisy copies of random samples."""
    samples = jax.random.normal(jax.random.key(0), (64, 32))
    network = eqx.nn.MLP(32, 128, width_size=128, depth=2, key=jax.random.key(1))
    # Weights as arrays: a schedule may change them without a new compilation.
    loss = VICRegLoss(jnp.array(25.0), jnp.array(25.0), jnp.array(1.0))
    model, optimizer = Model(network, loss), optax.adamw(1e-3)
    trained, _ = eqx.partition(model, trained_part(model))
    state = optimizer.init(trained)
    for step in range(100):
        noise = jax.random.normal(jax.random.key(2 + step), (2, *samples.shape))
        x1, x2 = samples + 0.3 * noise
        model, state, value = train_step(model, state, optimizer, x1, x2)
        if step % 33 == 0:
            print(f"{step} loss {float(value):.3f}, mu {float(model.loss.mu)}")


if __name__ == "__main__":
    main()
