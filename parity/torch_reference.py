"""Algorithm 1 of arXiv:2105.04906 in PyTorch, in our own words, on the CPU.

This reference is always available. The equations are the paper's, autograd
differentiates them, and no code comes from another implementation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from parity.oracle import WEIGHTS, Result


def torch_terms(z1, z2, gamma=1.0, eps=1e-4) -> tuple[torch.Tensor, ...]:
    """Returns invariance, variance and covariance, the last two summed over views."""
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
    """Returns terms, total and the gradients of the total, by autograd.

    Args:
        z1: One view, an array.
        z2: The other view.
        weights: `lambd`, `mu` and `nu`.
        gamma: Target standard deviation.
        eps: Added to the variances.
        dtype: Name of the embeddings' dtype. None: that of the arrays.
        compute: Name of a dtype that they are cast to first. None: no cast.
    """
    dtype = dtype or np.asarray(z1).dtype.name
    z1, z2 = leaf(z1, dtype), leaf(z2, dtype)
    terms = torch_terms(raised(z1, compute), raised(z2, compute), gamma, eps)
    total = weighted_sum(terms, weights)
    invariance, variance, covariance = (float(term.detach()) for term in terms)
    value, dz1, dz2 = gradients_of(total, z1, z2)
    return Result(invariance, variance, covariance, value, dz1, dz2)


def total_and_gradients(loss: Callable, z1, z2, dtype, compute):
    """Returns the total and both gradients of a loss function."""
    z1, z2 = leaf(z1, dtype), leaf(z2, dtype)
    return gradients_of(loss(raised(z1, compute), raised(z2, compute)), z1, z2)


def leaf(z, dtype: str) -> torch.Tensor:
    """Returns an array as a leaf tensor of a named dtype, with gradients."""
    wide = torch.tensor(np.asarray(z, np.float64))  # NumPy has no bfloat16
    return wide.to(getattr(torch, dtype)).requires_grad_()


def raised(z: torch.Tensor, compute: str | None) -> torch.Tensor:
    """Casts a tensor to the dtype to compute in. Gradients keep the old dtype."""
    return z if compute is None else z.to(getattr(torch, compute))


def gradients_of(total: torch.Tensor, z1: torch.Tensor, z2: torch.Tensor):
    """Returns a total and its gradients as float64 numbers, without more precision."""
    total.backward()
    assert z1.grad is not None and z2.grad is not None  # for the type checker
    return float(total.detach()), z1.grad.double().numpy(), z2.grad.double().numpy()
