"""The loss: the weighted sum of the three terms."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

import jax

from vicreg_jax import _check
from vicreg_jax._multiview import (
    multiview_loss,
    multiview_terms,
    view_loss,
    view_terms,
)
from vicreg_jax._terms import VICRegTerms

if TYPE_CHECKING:
    from jax.lax import PrecisionLike
    from jaxtyping import Array, Float

    from vicreg_jax._types import AxisName, Embeddings, RowMask, Scalar, Views


def vicreg_loss(
    z1: Embeddings,
    z2: Embeddings,
    lambd: Scalar,
    mu: Scalar,
    nu: Scalar = 1.0,
    gamma: Scalar = 1.0,
    *,
    axis_name: AxisName = None,
    where: RowMask | None = None,
    eps: Scalar = 1e-4,
    precision: PrecisionLike = "highest",
) -> Float[Array, ""]:
    """The VICReg loss of two batches of embeddings.

    ``lambd * s(z1, z2) + mu * (v(z1) + v(z2)) + nu * (c(z1) + c(z2))``, where ``s``,
    ``v`` and ``c`` are `invariance`, `variance` and `covariance`.

    The first six arguments and the value are those of quadra's PyTorch
    ``vicreg_loss``. Other implementations halve some of the terms: see `conventions`.

    The value and the gradient are accurate to the rounding of float32 (float64 for
    float64 views). The one exception is ``dim >= 2 * batch`` with a few columns that
    are much wider than the others: see `covariance`.

    Args:
        z1: Embeddings of one view, shape ``(batch, dim)``, float16, bfloat16, float32
            or float64: the output of the expander, not normalized.
        z2: Embeddings of the other view, of the same shape, row i of both from the
            same sample.
        lambd: Weight of the invariance term. The paper uses 25.
        mu: Weight of the variance term. The paper uses 25.
        nu: Weight of the covariance term. The paper uses 1.
        gamma: The target standard deviation of every column, at least 0. A JAX array
            is not checked, because that would wait for the device.
        axis_name: The mapped axis or axes that the rows of one batch are spread over.
            Each device holds the same number of rows. Leave it None under `jax.jit`,
            however the arrays are sharded.
        where: The rows to include, shape ``(batch,)``, dtype bool. None: all of them.
            Excluded rows change neither the value nor the gradient, whatever they
            hold.
        eps: Added to the variance, so that a collapsed column has a finite gradient.
        precision: The precision of the matrix products, as in `jax.numpy.matmul`.
            "highest" keeps TPUs and GPUs from rounding the inputs.

    Returns:
        A scalar, float32, or float64 if a view is float64. NaN with fewer than two
        included rows.

    Raises:
        ValueError: If a shape is wrong, ``gamma`` or ``eps`` is a negative number, or
            ``axis_name`` is not bound.
        TypeError: If a dtype is wrong.

    Example:
        >>> import jax, vicreg_jax
        >>> z1, z2 = jax.random.normal(jax.random.key(0), (2, 256, 2048))
        >>> loss = vicreg_jax.vicreg_loss(z1, z2, 25, 25)
        >>> print(f"{loss:.0f}")
        67

    Reference:
        Bardes et al., VICReg, https://arxiv.org/abs/2105.04906, Algorithm 1.
    """
    axes = _check.axes(axis_name)
    checked = _checked(z1, z2, gamma, axes, where, eps)
    weights = (
        _check.scalar("lambd", lambd),
        _check.scalar("mu", mu),
        _check.scalar("nu", nu),
    )
    # The program of `multiview_loss`, so that both give the same bits for two views.
    return view_loss(*checked, weights, global_views=2, axes=axes, precision=precision)


def vicreg_terms(
    z1: Embeddings,
    z2: Embeddings,
    gamma: Scalar = 1.0,
    *,
    axis_name: AxisName = None,
    where: RowMask | None = None,
    eps: Scalar = 1e-4,
    precision: PrecisionLike = "highest",
) -> VICRegTerms:
    """The three unweighted terms of the VICReg loss.

    To log the terms of a training step, compute them here and differentiate
    ``terms.weighted_sum(lambd, mu, nu)``, which is exactly the loss.

    Args:
        z1: As in `vicreg_loss`.
        z2: As in `vicreg_loss`.
        gamma: As in `vicreg_loss`.
        axis_name: As in `vicreg_loss`.
        where: As in `vicreg_loss`.
        eps: As in `vicreg_loss`.
        precision: As in `vicreg_loss`.

    Returns:
        Three scalars, float32, or float64 if a view is float64.

    Raises:
        ValueError: If a shape is wrong, ``gamma`` or ``eps`` is a negative number, or
            ``axis_name`` is not bound.
        TypeError: If a dtype is wrong.

    Example:
        >>> import jax.numpy as jnp, vicreg_jax
        >>> z = jnp.array([[0.0, 0.0], [0.5, 0.5]])
        >>> terms = vicreg_jax.vicreg_terms(z, z + 2)
        >>> print(terms.invariance, terms.covariance)
        4.0 0.03125

    Reference:
        Bardes et al., VICReg, https://arxiv.org/abs/2105.04906, Algorithm 1.
    """
    axes = _check.axes(axis_name)
    checked = _checked(z1, z2, gamma, axes, where, eps)
    return view_terms(*checked, global_views=2, axes=axes, precision=precision)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VICRegLoss:
    """The VICReg loss, configured once and called often.

    It is a pytree. The weights and ``gamma`` are its leaves: they may be (traced)
    arrays, so a schedule of weights needs no recompilation. The other fields are
    static. See `vicreg_loss` for their meaning and `conventions` for the weights of
    other implementations.

    Example:
        >>> import jax, vicreg_jax
        >>> loss = vicreg_jax.VICRegLoss(25, 25)
        >>> z1, z2 = jax.random.normal(jax.random.key(0), (2, 8, 4))
        >>> value, (dz1, dz2) = jax.value_and_grad(loss, argnums=(0, 1))(z1, z2)
        >>> dz1.shape
        (8, 4)
    """

    # The order and the defaults are those of quadra's class.
    lambd: Scalar
    mu: Scalar
    nu: Scalar = 1.0
    gamma: Scalar = 1.0
    _: KW_ONLY
    # `jax.jit` hashes static fields, so `eps` must be a number here. `vicreg_loss` also
    # takes an array. `global_views` is for more than two views.
    global_views: int | None = field(default=None, metadata={"static": True})
    axis_name: AxisName = field(default=None, metadata={"static": True})
    eps: float = field(default=1e-4, metadata={"static": True})
    precision: PrecisionLike = field(default="highest", metadata={"static": True})

    def __call__(
        self, z1: Embeddings, z2: Embeddings, *, where: RowMask | None = None
    ) -> Float[Array, ""]:
        """Returns the loss of two views; see `vicreg_loss`."""
        return vicreg_loss(
            z1, z2, self.lambd, self.mu, self.nu, self.gamma, **self._options(where)
        )

    def terms(
        self, z1: Embeddings, z2: Embeddings, *, where: RowMask | None = None
    ) -> VICRegTerms:
        """Returns the unweighted terms of two views; see `vicreg_terms`."""
        return vicreg_terms(z1, z2, self.gamma, **self._options(where))

    def multiview(
        self, views: Views, *, where: RowMask | None = None
    ) -> Float[Array, ""]:
        """Returns the loss of two or more views; see `multiview_loss`."""
        weights = (self.lambd, self.mu, self.nu, self.gamma)
        return multiview_loss(
            views, *weights, global_views=self.global_views, **self._options(where)
        )

    def multiview_terms(
        self, views: Views, *, where: RowMask | None = None
    ) -> VICRegTerms:
        """Returns the unweighted terms of several views; see `multiview_terms`."""
        return multiview_terms(
            views,
            self.gamma,
            global_views=self.global_views,
            **self._options(where),
        )

    def _options(self, where):
        return {
            "axis_name": self.axis_name,
            "where": where,
            "eps": self.eps,
            "precision": self.precision,
        }


def _checked(z1, z2, gamma, axes, where, eps):
    views = _check.views(z1, z2, axes)
    where = _check.row_mask(where, views[0].shape[0])
    gamma = _check.not_negative("gamma", gamma)
    return views, gamma, where, _check.not_negative("eps", eps)
