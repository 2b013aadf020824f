"""The loss again, three times over, each by other means.

`torch_loss` is Algorithm 1 of arXiv:2105.04906 in PyTorch, in our own words.
`numpy_loss` is the float64 oracle, with gradients derived by hand. `jax_loss` is plain
JAX: the dim x dim covariance, differentiated automatically.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

WEIGHTS = (25.0, 25.0, 1.0)


class Result(NamedTuple):
    """Terms, total, and the gradients of the total."""

    invariance: float
    variance: float
    covariance: float
    total: float
    dz1: np.ndarray
    dz2: np.ndarray


def numpy_loss(z1, z2, weights=WEIGHTS, gamma=1.0, eps=1e-4) -> Result:
    """Everything in float64 NumPy; the gradients are ours, by hand."""
    z1, z2 = (np.asarray(z, np.float64) for z in (z1, z2))
    lambd, mu, nu = weights
    n, d = z1.shape
    difference = z1 - z2
    terms = [np.mean(difference**2), 0.0, 0.0]
    gradients = [sign * lambd * 2 * difference / (n * d) for sign in (1, -1)]
    for view, z in enumerate((z1, z2)):
        x = z - z.mean(0)
        c = x.T @ x / (n - 1)
        std = np.sqrt(np.diag(c) + eps)
        off = c - np.diag(np.diag(c))
        terms[1] += np.mean(np.maximum(gamma - std, 0))
        terms[2] += np.sum(off**2) / d
        hinge = np.where(std < gamma, -1 / (d * (n - 1) * std), 0) * x
        gradients[view] = (
            gradients[view] + mu * hinge + nu * 4 * x @ off / (d * (n - 1))
        )
    return Result(*terms, float(np.dot(weights, terms)), *gradients)


def torch_loss(z1, z2, weights=WEIGHTS, gamma=1.0, eps=1e-4) -> Result:
    """Autograd of Algorithm 1, in the dtype of the inputs; skips without PyTorch."""
    torch = pytest.importorskip("torch")
    views = [torch.tensor(np.asarray(z), requires_grad=True) for z in (z1, z2)]
    invariance = torch.nn.functional.mse_loss(*views)
    variance, covariance = 0.0, 0.0
    for z in views:
        n, d = z.shape
        variance += torch.relu(gamma - torch.sqrt(z.var(dim=0) + eps)).mean()
        x = z - z.mean(dim=0)
        c = x.T @ x / (n - 1)
        covariance += c[~torch.eye(d, dtype=torch.bool)].pow(2).sum() / d
    terms = (invariance, variance, covariance)
    total = sum(w * t for w, t in zip(weights, terms, strict=True))
    total.backward()
    return Result(
        *(float(t.detach()) for t in terms),
        float(total.detach()),
        *(z.grad.numpy() for z in views),
    )


def jax_terms(z1, z2, gamma=1.0, eps=1e-4):
    """The three terms by the d x d covariance, for autodiff."""
    variance = covariance = 0.0
    for z in (z1, z2):
        n, d = z.shape
        x = z - z.mean(0)
        c = jnp.matmul(x.T, x, precision="highest") / (n - 1)
        std = jnp.sqrt(jnp.diag(c) + eps)
        variance += jnp.mean(jax.nn.relu(gamma - std))
        covariance += jnp.sum(jnp.where(jnp.eye(d, dtype=bool), 0, c) ** 2) / d
    return jnp.mean((z1 - z2) ** 2), variance, covariance


def jax_loss(z1, z2, lambd=25.0, mu=25.0, nu=1.0, gamma=1.0, eps=1e-4):
    """The loss by the d x d covariance, for autodiff."""
    s, v, c = jax_terms(z1, z2, gamma, eps)
    return lambd * s + mu * v + nu * c


class Bounds(NamedTuple):
    """How far from the oracle rounding alone can take a result."""

    invariance: float
    variance: float
    covariance: float
    total: float
    gradient: float


def rounding_bounds(z1, z2, unit, weights=WEIGHTS, gamma=1.0, eps=1e-4) -> Bounds:
    """Bounds the rounding errors of the loss at these inputs.

    The model is Higham and Mary's (SIAM J. Sci. Comput. 41, 2019): a sum of k products
    is off by at most `8 sqrt(k) unit` times the sum of their magnitudes, but with
    negligible probability. The errors are followed to first order, in the Frobenius
    norm, through centring, product, square and weights; no constant is fitted. The
    gradient's bound is for the Frobenius norm of both views' errors together.

    Args:
        z1: one view, exactly as the loss gets it.
        z2: the other view.
        unit: roundoff of the dtype that is computed in.
        weights: lambd, mu and nu.
        gamma: target standard deviation.
        eps: added to the variances.
    """

    def sums(k):
        return 8 * np.sqrt(k) * unit

    z1, z2 = (np.asarray(z, np.float64) for z in (z1, z2))
    lambd, mu, nu = weights
    n, d = z1.shape
    exact = numpy_loss(z1, z2, weights, gamma, eps)
    invariance = sums(n * d) * exact.invariance + 4 * unit * exact.invariance
    variance, covariance, gradient = 0.0, 0.0, 0.0
    gradient += lambd * 2 * 4 * unit * np.linalg.norm(z1 - z2) / (n * d) * 2
    for z in (z1, z2):
        x = z - z.mean(0)
        dx = sums(n) * np.abs(z).max(0) + unit * np.abs(x).max(0)  # of one entry
        c = x.T @ x / (n - 1)
        v = np.diag(c)
        off = np.linalg.norm(c - np.diag(v))
        norm_x, norm_dx = np.linalg.norm(x), np.sqrt(n) * np.linalg.norm(dx)
        # The mean of the errors moves a variance to second order only; the rest of dx
        # is the rounding of z - mean.
        dv = sums(n) * v + 4 * np.sqrt(v) * unit * np.abs(x).max(0) + 2 * dx**2
        std = np.sqrt(v + eps)
        dstd = dv / (2 * std) + 2 * unit * std
        near = gamma - std + dstd > 0
        variance += np.mean(np.where(near, dstd + 2 * unit * gamma, 0))
        variance += sums(d) * gamma
        hinge = np.where(near, 1 / (d * (n - 1) * std), 0)
        # Where rounding decides on which side of the hinge a column falls, all of its
        # gradient is in doubt.
        doubt = np.where(np.abs(gamma - std) <= dstd + 2 * unit * gamma, 1.0, 0.0)
        gradient += mu * np.linalg.norm(hinge * (dx + 4 * unit * np.abs(x)))
        gradient += mu * np.linalg.norm(hinge * (dstd / std + doubt) * np.abs(x))
        if 2 * n <= d:
            k = np.linalg.norm(c)
            dk = sums(d) * np.trace(c) + 2 * norm_x * norm_dx / (n - 1)
            energy = (
                2 * k * dk
                + sums(n * n) * k**2
                + 2 * np.linalg.norm(v) * (np.linalg.norm(dv))
            )
            energy += sums(d) * np.sum(v**2)
            slope = dk * norm_x + (sums(n) + 4 * unit) * k * norm_x + k * norm_dx
            slope += np.linalg.norm(x * dv) + np.linalg.norm(v * dx) * np.sqrt(n)
            slope += 4 * unit * np.linalg.norm(x * v)
        else:
            dc = sums(n) * np.trace(c) + 2 * norm_x * norm_dx / (n - 1)
            energy = 2 * off * dc + dc**2 + sums(d * d) * off**2
            slope = dc * norm_x + (sums(d) + 4 * unit) * off * norm_x + off * norm_dx
        covariance += energy / d
        gradient += nu * 4 * slope / (d * (n - 1))
    parts = np.array([invariance, variance, covariance])
    total = float(np.dot(weights, parts)) + 4 * unit * abs(exact.total)
    return Bounds(*parts, total, float(gradient))
