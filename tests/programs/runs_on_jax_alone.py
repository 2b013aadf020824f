"""Computes a loss: nothing but JAX is imported, and no global setting is changed."""

import sys

import jax
import jax.numpy as jnp


def main():
    """Imports the package, and compares JAX's settings before and after."""
    before = dict(jax.config.values)
    import vicreg_jax

    vicreg_jax.vicreg_loss(jnp.ones((4, 3)), jnp.zeros((4, 3)), 25, 25)
    assert before == dict(jax.config.values)
    others = {"flax", "optax", "torch", "jaxtyping", "chex", "sklearn"}
    assert not others & set(sys.modules), others & set(sys.modules)


if __name__ == "__main__":
    main()
