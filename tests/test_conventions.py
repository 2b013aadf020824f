"""Each convention against its formula, written in that project's own terms."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from convention_cases import CASES, DIM, Z1, Z2

from vicreg_jax import VICRegLoss, conventions


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
    "name, given, message",
    [
        ("lightly", "lambd", "lightly.. has no .* 'lambd'; .* calls it 'lambda_param'"),
        ("official", "mu_param", "has no argument 'mu_param'; .* 'std_coeff'"),
        ("stable_pretraining", "eps", "has no argument 'eps'; .* 'epsilon'"),
        ("vicregl_official", "lambd", "has no argument 'lambd'; .* 'inv_coeff'"),
        ("eb_jepa", "sim_coeff", "are std_coeff, cov_coeff, dim, axis_name, precision"),
        ("quadra", "inv_coeff", "has no argument 'inv_coeff'; .* 'lambd'"),
        ("pytorch_metric_learning", "mu", "has no argument 'mu'; .* 'variance_mu'"),
        ("vicregl", "mu", "has no argument 'mu'; .* 'var_coeff'"),
        ("vicregl_lightly", "nu", "has no argument 'nu'; .* 'nu_param'"),
        ("solo_learn", "tau", "has no argument 'tau'; its arguments are sim_loss_weig"),
    ],
)
def test_names_of_other_projects(name, given, message):
    needed = {"dim": DIM} if name == "eb_jepa" else {}
    with pytest.raises(TypeError, match=message):
        getattr(conventions, name)(**needed, **{given: 10.0})


@pytest.mark.usefixtures("unchecked_signatures")
def test_other_type_errors_stay_as_they_are():
    with pytest.raises(TypeError, match="missing 1 required .* 'dim'"):
        conventions.paper_equations()
