"""Algorithm 1 of arXiv:2105.04906 in PyTorch, in our own words, on the CPU.

The reference that is always there. Nothing here is from another implementation: the
equations are the paper's, and autograd differentiates them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from parity.oracle import WEIGHTS, Result


def torch_terms(z1, z2, gamma=1.0, eps=1e-4) -> tuple[torch.Tensor, ...]:
    """Returns invariance, variance and covariance of two tensors, views summed."""
    variance = covariance = torch.zeros((), dtype=z1.dtype)
    for z in (z1, z2):
        n, d = z.shape
        hinge = torch.relu(gamma - torch.sqrt(z.var(dim=0) + eps))
        variance = variance + hinge.mean()
        x = z - z.mean(dim=0)
        c = x.T @ x / (n - 1)
        off_diagonal = c[~torch.eye(d, dtype=torch.bool)]
        covariance = covariance + off_diagonal.pow(2).sum() / d
    return torch.nn.functional.mse_loss(z1, z2), variance, covariance


def weighted_sum(terms, weights=WEIGHTS) -> torch.Tensor:
    """Returns the loss."""
    invariance, variance, covariance = terms
    return weights[0] * invariance + weights[1] * variance + weights[2] * covariance


def torch_loss(
    z1, z2, weights=WEIGHTS, gamma=1.0, eps=1e-4, dtype=None, compute=None
) -> Result:
    """Returns terms, total and gradients, as autograd has them.

    Args:
        z1: one view, an array.
        z2: the other view.
        weights: lambd, mu and nu.
        gamma: target standard deviation.
        eps: added to the variances.
        dtype: name of the embeddings' dtype; None: that of the arrays.
        compute: name of a dtype that they are raised to first; None: as they are.
    """
    dtype = dtype or np.asarray(z1).dtype.name
    z1, z2 = leaf(z1, dtype), leaf(z2, dtype)
    terms = torch_terms(raised(z1, compute), raised(z2, compute), gamma, eps)
    total = weighted_sum(terms, weights)
    invariance, variance, covariance = (float(term.detach()) for term in terms)
    value, dz1, dz2 = gradients_of(total, z1, z2)
    return Result(invariance, variance, covariance, value, dz1, dz2)


def total_and_gradients(loss: Callable, z1, z2, dtype, compute):
    """Returns the total and both gradients of a loss that is all one function."""
    z1, z2 = leaf(z1, dtype), leaf(z2, dtype)
    return gradients_of(loss(raised(z1, compute), raised(z2, compute)), z1, z2)


def leaf(z, dtype: str) -> torch.Tensor:
    """Returns an array as a tensor of a named dtype, to be differentiated in."""
    wide = torch.tensor(np.asarray(z, np.float64))  # NumPy has no bfloat16
    return wide.to(getattr(torch, dtype)).requires_grad_()


def raised(z: torch.Tensor, compute: str | None) -> torch.Tensor:
    """Returns the tensor in the dtype to compute in; gradients come back in its own."""
    return z if compute is None else z.to(getattr(torch, compute))


def gradients_of(total: torch.Tensor, z1: torch.Tensor, z2: torch.Tensor):
    """Returns a total and its gradients, in float64, of the dtype's own precision."""
    total.backward()
    assert z1.grad is not None and z2.grad is not None
    return float(total.detach()), z1.grad.double().numpy(), z2.grad.double().numpy()
