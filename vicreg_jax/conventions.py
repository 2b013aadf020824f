"""The loss with the weights of other implementations, by name.

Implementations agree on the terms, but some sum and some average them over the two
views, so "25, 25, 1" does not mean one loss. Each function here takes the arguments of
the project it is named after, with that project's defaults. It returns a `VICRegLoss`
with the same value and gradient, or a `VICRegLLoss` for VICRegL's whole loss.

All functions pass further keywords (``axis_name``, ``precision``) to these classes.
Another project's name for an argument raises a TypeError that gives the right one.

Example:
    >>> from vicreg_jax import conventions
    >>> loss = conventions.lightly(lambda_param=10.0)
    >>> loss.lambd, loss.mu, loss.nu
    (10.0, 12.5, 1.0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from vicreg_jax._argument_names import LocalOptions, Options, names_the_right_argument
from vicreg_jax._loss import VICRegLoss
from vicreg_jax.local import VICRegLLoss

if TYPE_CHECKING:
    from vicreg_jax._types import Scalar


@names_the_right_argument
def quadra(
    lambd: Scalar,
    mu: Scalar,
    nu: Scalar = 1.0,
    gamma: Scalar = 1.0,
    **options: Unpack[Options],
) -> VICRegLoss:
    """``lambd * s + mu * (v1 + v2) + nu * (c1 + c2)``.

    quadra 2.9.0, ``quadra.losses.ssl.vicreg.VICRegLoss``. It is the paper's Algorithm 1
    and the convention of this package.
    """
    return VICRegLoss(lambd, mu, nu, gamma, **options)


@names_the_right_argument
def solo_learn(
    sim_loss_weight: Scalar = 25.0,
    var_loss_weight: Scalar = 25.0,
    cov_loss_weight: Scalar = 1.0,
    **options: Unpack[Options],
) -> VICRegLoss:
    """``sim * s + var * (v1 + v2) + cov * (c1 + c2)``.

    solo-learn 1.0.2, ``solo.losses.vicreg.vicreg_loss_func``.
    """
    return VICRegLoss(sim_loss_weight, var_loss_weight, cov_loss_weight, **options)


@names_the_right_argument
def official(
    sim_coeff: Scalar = 25.0,
    std_coeff: Scalar = 25.0,
    cov_coeff: Scalar = 1.0,
    **options: Unpack[Options],
) -> VICRegLoss:
    """``sim * s + std * (v1 + v2) / 2 + cov * (c1 + c2)``.

    facebookresearch/vicreg, ``main_vicreg.py``.
    """
    # Halved, because the code averages the hinge over the two views. It sums the
    # covariance.
    return VICRegLoss(sim_coeff, std_coeff / 2, cov_coeff, **options)


@names_the_right_argument
def lightly(
    lambda_param: Scalar = 25.0,
    mu_param: Scalar = 25.0,
    nu_param: Scalar = 1.0,
    *,
    eps: float = 1e-4,
    **options: Unpack[Options],
) -> VICRegLoss:
    """``lambda * s + mu * (v1 + v2) / 2 + nu * (c1 + c2)``.

    lightly 1.6.0, ``lightly.loss.VICRegLoss``, for embeddings of rank 2. Use
    ``axis_name`` for its ``gather_distributed``.
    """
    return VICRegLoss(lambda_param, mu_param / 2, nu_param, eps=eps, **options)


@names_the_right_argument
def pytorch_metric_learning(
    invariance_lambda: Scalar = 25.0,
    variance_mu: Scalar = 25.0,
    covariance_v: Scalar = 1.0,
    eps: float = 1e-4,
    **options: Unpack[Options],
) -> VICRegLoss:
    """``lambda * s + mu * (v1 + v2) / 2 + v * (c1 + c2)``.

    pytorch-metric-learning 2.9.0, ``losses.VICRegLoss`` with its default reducer.
    """
    return VICRegLoss(
        invariance_lambda, variance_mu / 2, covariance_v, eps=eps, **options
    )


@names_the_right_argument
def stable_pretraining(
    sim_coeff: Scalar = 25.0,
    std_coeff: Scalar = 25.0,
    cov_coeff: Scalar = 1.0,
    epsilon: float = 1e-4,
    **options: Unpack[Options],
) -> VICRegLoss:
    """``sim * s + std * (v1 + v2) / 2 + cov * (c1 + c2)``.

    stable-pretraining 0.1.8, ``stable_pretraining.losses.VICRegLoss``.
    """
    return VICRegLoss(sim_coeff, std_coeff / 2, cov_coeff, eps=epsilon, **options)


@names_the_right_argument
def vicregl(
    inv_coeff: Scalar = 25.0,
    var_coeff: Scalar = 25.0,
    cov_coeff: Scalar = 1.0,
    **options: Unpack[Options],
) -> VICRegLoss:
    """``inv * s + var * (v1 + v2) / 2 + cov * (c1 + c2) / 2``.

    facebookresearch/VICRegL, ``main_vicregl.py``: its global loss. With more than two
    views, `VICRegLoss.multiview` is ``inv * mean_P s + var * mean_v v + cov * mean_v
    c``, where ``P`` pairs each of the first two views with every other one.
    """
    # There both terms are means over the views. In `multiview_loss` they are twice
    # the mean.
    return VICRegLoss(
        inv_coeff, var_coeff / 2, cov_coeff / 2, global_views=2, **options
    )


@names_the_right_argument
def vicregl_official(
    alpha: Scalar = 0.75,
    inv_coeff: Scalar = 25.0,
    var_coeff: Scalar = 25.0,
    cov_coeff: Scalar = 1.0,
    num_matches: tuple[int, int] = (20, 4),
    *,
    l2_all_matches: bool = True,
    **options: Unpack[Options],
) -> VICRegLLoss:
    """VICRegL as its authors run it, global and local loss.

    facebookresearch/VICRegL at 803ae4c, ``main_vicregl.py``, whose ``fast_vc_reg`` is
    0. All positions are matched by feature unless ``l2_all_matches`` is false; matches
    keep the order of their positions.
    """
    return VICRegLLoss(
        inv_coeff,
        var_coeff / 2,
        cov_coeff / 2,
        alpha=alpha,
        feature_matches=None if l2_all_matches else num_matches,
        location_matches=num_matches,
        **options,
    )


@names_the_right_argument
def vicregl_lightly(
    lambda_param: Scalar = 25.0,
    mu_param: Scalar = 25.0,
    nu_param: Scalar = 1.0,
    alpha: Scalar = 0.75,
    *,
    eps: float = 1e-4,
    num_matches: tuple[int, int] = (20, 4),
    **options: Unpack[LocalOptions],
) -> VICRegLLoss:
    """VICRegL as lightly has it, global and local loss.

    lightly 1.6.0, ``lightly.loss.VICRegLLoss``; its ``gather_distributed`` is
    ``axis_name`` here. Matches by feature are limited too, matches are in the order of
    their distances, and a map with fewer positions takes part with all of them.
    Set ``global_views`` where there are not two.
    """
    return VICRegLLoss(
        lambda_param,
        mu_param / 2,
        nu_param / 2,
        alpha=alpha,
        feature_matches=num_matches,
        location_matches=num_matches,
        slot_order="distance",
        clamp_matches=True,
        eps=eps,
        **options,
    )


@names_the_right_argument
def paper_equations(
    lambd: Scalar = 25.0,
    mu: Scalar = 25.0,
    nu: Scalar = 1.0,
    *,
    dim: int,
    **options: Unpack[Options],
) -> VICRegLoss:
    """``lambd * dim * s + mu * (v1 + v2) + nu * (c1 + c2)``.

    arXiv:2105.04906, equations 1 to 6. Their invariance sums over the columns, where
    Algorithm 1 averages. ``dim`` is the number of columns.
    """
    # `invariance` has divided by the number of columns.
    return VICRegLoss(lambd * dim, mu, nu, **options)


@names_the_right_argument
def eb_jepa(
    std_coeff: Scalar = 1.0,
    cov_coeff: Scalar = 1.0,
    *,
    dim: int,
    **options: Unpack[Options],
) -> VICRegLoss:
    """``s + std * (v1 + v2) + cov * (c1 + c2) / (dim - 1)``.

    facebookresearch/eb_jepa, ``eb_jepa.losses.VICRegLoss``. It averages the squares
    over the ``dim * (dim - 1)`` off-diagonal entries. ``dim`` is the number of columns,
    at least 2.
    """
    # The project has no weight for the invariance. `covariance` has divided by `dim`.
    return VICRegLoss(1.0, std_coeff, cov_coeff / (dim - 1), **options)
