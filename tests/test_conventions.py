"""Each convention against its formula, written in that project's own terms."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from reference import numpy_loss
from test_values import draw

from vicreg_jax import VICRegLoss, conventions

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


@pytest.mark.parametrize("name", CASES)
def test_equals_its_formula(x64, name):
    loss, want = CASES[name]
    np.testing.assert_allclose(loss(jnp.array(Z1), jnp.array(Z2)), want, rtol=1e-12)


def test_every_convention_is_tested():
    public = {
        name
        for name, function in inspect.getmembers(conventions, inspect.isfunction)
        if function.__module__ == conventions.__name__
    }
    of_maps = {"vicregl_official", "vicregl_lightly"}  # in test_local
    assert public == set(CASES) | of_maps


def test_defaults_are_the_projects_own():
    assert conventions.official() == VICRegLoss(25, 12.5, 1)
    assert conventions.lightly() == VICRegLoss(25, 12.5, 1)
    assert conventions.pytorch_metric_learning() == VICRegLoss(25, 12.5, 1)
    assert conventions.stable_pretraining() == VICRegLoss(25, 12.5, 1)
    assert conventions.solo_learn() == VICRegLoss(25, 25, 1)
    assert conventions.quadra(25, 25) == VICRegLoss(25, 25, 1)
    assert conventions.vicregl() == VICRegLoss(25, 12.5, 0.5, global_views=2)
    assert conventions.paper_equations(dim=8) == VICRegLoss(200, 25, 1)
    assert conventions.eb_jepa(dim=5) == VICRegLoss(1, 1, 0.25)


def test_every_convention_passes_options():
    for name in CASES:
        function = getattr(conventions, name)
        needed = {"quadra": {"lambd": 25.0, "mu": 25.0}}.get(name, {})
        if "dim" in inspect.signature(function).parameters:
            needed = {"dim": DIM}
        loss = function(**needed, axis_name="data", precision="high")
        assert (loss.axis_name, loss.precision) == ("data", "high"), name


def test_eps_by_its_name_in_each_project():
    assert conventions.lightly(eps=0.1).eps == 0.1
    assert conventions.pytorch_metric_learning(eps=0.1).eps == 0.1
    assert conventions.stable_pretraining(epsilon=0.1).eps == 0.1


@pytest.mark.parametrize(
    "name, given, said",
    [
        ("lightly", "lambd", "lightly.. has no .* 'lambd'; .* calls it 'lambda_param'"),
        ("official", "mu_param", "has no argument 'mu_param'; .* 'std_coeff'"),
        ("stable_pretraining", "eps", "has no argument 'eps'; .* 'epsilon'"),
        ("vicregl_official", "lambd", "has no argument 'lambd'; .* 'inv_coeff'"),
        ("eb_jepa", "sim_coeff", "are std_coeff, cov_coeff, dim, axis_name, precision"),
        ("solo_learn", "tau", "has no argument 'tau'; its arguments are sim_loss_weig"),
    ],
)
def test_names_of_other_projects(name, given, said):
    needed = {"dim": DIM} if name == "eb_jepa" else {}
    with pytest.raises(TypeError, match=said):
        getattr(conventions, name)(**needed, **{given: 10.0})


@pytest.mark.usefixtures("unchecked_signatures")
def test_other_type_errors_stay_as_they_are():
    with pytest.raises(TypeError, match="missing 1 required .* 'dim'"):
        conventions.paper_equations()
