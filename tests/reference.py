"""Three references for the loss, all of them the parity suite's.

`torch_loss` is Algorithm 1 of arXiv:2105.04906 in PyTorch. `numpy_loss` is a float64
oracle with gradients derived by hand. `jax_loss` is plain JAX.
"""

import pytest

from parity.oracle import WEIGHTS as WEIGHTS
from parity.oracle import Bounds as Bounds
from parity.oracle import Result as Result
from parity.oracle import numpy_loss as numpy_loss
from parity.oracle import rounding_bounds as rounding_bounds
from parity.oracle import stored as stored
from parity.plain_jax import jax_gathered_loss as jax_gathered_loss
from parity.plain_jax import jax_loss as jax_loss
from parity.plain_jax import jax_terms as jax_terms


def torch_loss(z1, z2, weights=WEIGHTS, gamma=1.0, eps=1e-4) -> Result:
    """Autograd of Algorithm 1, in the dtype of the inputs; skips without PyTorch."""
    pytest.importorskip("torch")
    from parity import torch_reference

    return torch_reference.torch_loss(z1, z2, weights, gamma, eps)
