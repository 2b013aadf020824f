"""Each convention with its formula, written in that project's own terms."""

import numpy as np
from embeddings import draw
from reference import numpy_loss

from vicreg_jax import conventions

Z1, Z2 = draw(16, 6)
DIM = 6


def parts():
    s = numpy_loss(Z1, Z2).invariance
    v1, v2 = (numpy_loss(z, z).variance / 2 for z in (Z1, Z2))
    c1, c2 = (numpy_loss(z, z).covariance / 2 for z in (Z1, Z2))
    return s, v1, v2, c1, c2


s, v1, v2, c1, c2 = parts()
CASES = {
    "quadra": (
        conventions.quadra(3.0, 5.0, 7.0),
        3 * s + 5 * (v1 + v2) + 7 * (c1 + c2),
    ),
    "solo_learn": (
        conventions.solo_learn(
            sim_loss_weight=3.0, var_loss_weight=5.0, cov_loss_weight=7.0
        ),
        3 * s + 5 * (v1 + v2) + 7 * (c1 + c2),
    ),
    "official": (
        conventions.official(sim_coeff=3.0, std_coeff=5.0, cov_coeff=7.0),
        3 * s + 5 * (v1 / 2 + v2 / 2) + 7 * (c1 + c2),
    ),
    "lightly": (
        conventions.lightly(lambda_param=3.0, mu_param=5.0, nu_param=7.0),
        3 * s + 5 * 0.5 * (v1 + v2) + 7 * (c1 + c2),
    ),
    "pytorch_metric_learning": (
        conventions.pytorch_metric_learning(
            invariance_lambda=3.0, variance_mu=5.0, covariance_v=7.0
        ),
        3 * s + 5 * v1 / 2 + 5 * v2 / 2 + 7 * (c1 + c2),
    ),
    "stable_pretraining": (
        conventions.stable_pretraining(sim_coeff=3.0, std_coeff=5.0, cov_coeff=7.0),
        3 * s + (5 * v1 / 2 + 7 * c1) + (5 * v2 / 2 + 7 * c2),
    ),
    "vicregl": (
        conventions.vicregl(inv_coeff=3.0, var_coeff=5.0, cov_coeff=7.0),
        3 * s + 5 * (v1 / 2 + v2 / 2) + 7 * (c1 / 2 + c2 / 2),
    ),
    "paper_equations": (
        conventions.paper_equations(3.0, 5.0, 7.0, dim=DIM),
        3 * np.mean(np.sum((Z1 - Z2) ** 2, axis=1)) + 5 * (v1 + v2) + 7 * (c1 + c2),
    ),
    "eb_jepa": (
        conventions.eb_jepa(std_coeff=5.0, cov_coeff=7.0, dim=DIM),
        s + 5 * (v1 + v2) + 7 * (c1 + c2) * DIM / (DIM * (DIM - 1)),
    ),
}
