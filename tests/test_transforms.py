"""What JAX does to functions, done to the loss; against plain autodiff."""

import dataclasses
import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embeddings import draw
from grids import thinned
from jax import export
from jax.test_util import check_grads
from processes import PROGRAMS, completed
from reference import jax_loss

import vicreg_jax as vj

pytestmark = pytest.mark.usefixtures("optimized")
both_forms = pytest.mark.parametrize(
    "n, d", thinned([(12, 5), (5, 5), (5, 12)], keep=[(12, 5), (5, 12)])
)
loss = partial(vj.vicreg_loss, lambd=25, mu=25)


def views(n, d):
    return tuple(map(jnp.array, draw(n, d)))


@pytest.fixture
def compilations():
    """A list that grows with every program that XLA compiles."""
    seen = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@both_forms
def test_second_order_by_finite_differences(x64, n, d):
    # gamma far from every standard deviation: finite differences see no kink.
    for gamma in (0.1, 5.0):
        check_grads(
            lambda a, b, g=gamma: loss(a, b, gamma=g), views(n, d), order=2, rtol=1e-5
        )
    check_grads(vj.covariance, views(n, d)[:1], order=2, rtol=1e-5)


@both_forms
def test_forward_and_reverse_mode_agree_with_autodiff(x64, n, d):
    z = views(n, d)
    directions = tuple(map(jnp.array, draw(n, d, seed=1)))

    @partial(jax.jit, static_argnums=0)
    def derivatives(f, z1, z2):
        """Returns value and tangent, a Hessian times a vector, and that in reverse."""
        hessian_vector = jax.jvp(jax.grad(f, argnums=(0, 1)), (z1, z2), directions)
        in_reverse = jax.grad(lambda a: jnp.vdot(jax.grad(f)(a, z2), directions[0]))
        return jax.jvp(f, (z1, z2), directions), (hessian_vector, in_reverse(z1))

    (first, second), (first_plain, second_plain) = (
        derivatives(f, *z) for f in (loss, jax_loss)
    )
    chex.assert_trees_all_close(first, first_plain, rtol=1e-12)
    chex.assert_trees_all_close(second, second_plain, rtol=1e-10, atol=1e-13)


@both_forms
def test_under_every_transformation(x64, n, d):
    z = views(n, d)
    want = jax.value_and_grad(loss)(*z)
    step = jax.value_and_grad(loss)
    scanned = jax.lax.scan(
        lambda c, z: (c, step(*z)), 0, jax.tree.map(lambda a: a[None], z)
    )
    others = tuple(map(jnp.array, draw(n, d, seed=2)))
    batched = jax.vmap(step)(*map(jnp.stack, zip(z, others, strict=True)))
    chex.assert_trees_all_close(jax.jit(step)(*z), want, rtol=1e-12)
    chex.assert_trees_all_close(
        jax.value_and_grad(jax.checkpoint(loss))(*z), want, rtol=1e-12
    )
    chex.assert_trees_all_close(
        jax.tree.map(lambda a: a[0], scanned[1]), want, rtol=1e-12
    )
    for at, one in enumerate((want, step(*others))):
        chex.assert_trees_all_close(
            jax.tree.map(lambda a, at=at: a[at], batched), one, rtol=1e-12
        )
    exported = export.export(jax.jit(step))(*z)
    chex.assert_trees_all_close(exported.call(*z), want, rtol=1e-12)


FUNCTIONS = {
    "loss": loss,
    "terms": vj.vicreg_terms,
    "invariance": vj.invariance,
    "variance": lambda z, _: vj.variance(z),
    "covariance": lambda z, _: vj.covariance(z),
    "diagnostics": lambda z, _: vj.diagnostics(z),
}
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


@every_function
def test_each_function_is_one_program(compilations, function):
    z1, z2 = (jnp.array(z, jnp.float32) for z in draw(9, 33))
    compilations.clear()
    jax.block_until_ready(function(z1, z2))
    assert len(compilations) == 1


@every_function
def test_nothing_is_called_inside_a_program(function):
    """Inlined: the programs of users show what is computed, not our functions."""
    z = jnp.zeros((4, 3))
    text = jax.jit(lambda x, y: function(x, y)).lower(z, z).as_text()
    ours = "view_loss|view_terms|_invariance|_variance|_covariance|_diagnostics"
    assert "stablehlo" in text and not re.findall(rf"@({ours})\b", text)


def test_the_invariance_keeps_no_differences():
    """They are computed again for the gradient, which spares as much as a view."""
    z = jnp.zeros((4, 3))
    _, backward = jax.vjp(vj.invariance, z, z)
    kept = [leaf.shape for leaf in jax.tree.leaves(backward)]
    assert kept.count(z.shape) == 2, kept  # the views themselves


@pytest.mark.parametrize("number", [jnp.int32, jnp.bfloat16])
def test_settings_of_any_dtype(number):
    """As arrays they join a loss in float32 without promotion."""
    z1, z2 = (jnp.array(z, jnp.float32) for z in draw(8, 4))
    want = vj.vicreg_loss(z1, z2, 3.0, 5.0, 2.0, 1.0, eps=1.0)
    got = vj.vicreg_loss(z1, z2, *map(number, (3, 5, 2, 1)), eps=number(1))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-6)
    want = vj.variance(z1, 2.0, eps=1.0)
    got = vj.variance(z1, number(2), eps=number(1))
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_one_program_compiled_once(compilations):
    z1, z2 = (jnp.array(z, jnp.float32) for z in draw(9, 31))
    compilations.clear()  # bringing NumPy arrays to the device compiled something
    jax.block_until_ready(vj.vicreg_loss(z1, z2, 25.0, 25.0))
    assert len(compilations) == 1
    for weight in (1, 2.5, 3):
        vj.vicreg_loss(z2, z1, weight, weight, nu=weight, gamma=weight)
    assert len(compilations) == 1


def test_schedules_do_not_retrace():
    z1, z2 = (jnp.array(z, jnp.float32) for z in draw(8, 4))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(loss, z1, z2):
        return jax.value_and_grad(loss)(z1, z2)

    for weight in (1.0, 2.0, 3.0):
        configured = vj.VICRegLoss(jnp.float32(weight), jnp.float32(25))
        value, gradient = step(configured, z1, z2)
        np.testing.assert_allclose(value, configured(z1, z2), rtol=1e-6)
        chex.assert_tree_all_finite(gradient)


@both_forms
def test_without_rank_promotion(n, d):
    """Some switch it off for the whole program, to find their own mistakes."""
    z = tuple(jnp.array(z, jnp.float32) for z in draw(n, d))
    with jax.numpy_rank_promotion("raise"):
        where = jnp.arange(n) < 4
        value, _ = jax.value_and_grad(loss, argnums=(0, 1))(*z, where=where)
        assert jnp.isfinite(value)
        vj.diagnostics(z[0])


def test_traced_weights_have_gradients(x64):
    z1, z2 = views(8, 5)
    terms = vj.vicreg_terms(z1, z2)
    gradient = jax.grad(lambda w: vj.vicreg_loss(z1, z2, w[0], w[1], w[2]))(
        jnp.array([25.0, 25.0, 1.0])
    )
    np.testing.assert_allclose(gradient, terms, rtol=1e-12)


@pytest.mark.parametrize("n, d, size", [(32, 128, 32), (128, 32, 32), (64, 64, 64)])
def test_the_smaller_product_is_formed_and_nothing_twice(n, d, size):
    """Value and gradient of both views: two products a view, the smaller form."""
    z = jnp.zeros((n, d))
    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    compiled = both.lower(z, z).compile()
    cost = compiled.cost_analysis()
    assert cost is not None
    products = 4 * 2 * n * d * size
    # Beside the products: some dozens of operations an entry, none of them a product.
    assert products <= cost["flops"] <= products + 60 * n * d + 20 * size**2
    text = compiled.as_text()
    if 2 * n <= d:
        assert f"f32[{d},{d}]" not in text
    else:
        assert n == d or f"f32[{n},{n}]" not in text


def test_weighted_sum_is_the_loss():
    z1, z2 = views(8, 5)
    weights = (3.0, 5.0, 7.0)
    configured = vj.VICRegLoss(*weights, gamma=2.0)
    terms = configured.terms(z1, z2)
    value = jax.jit(lambda t: t.weighted_sum(*weights))(terms)
    assert value == configured(z1, z2)
    assert configured(z1, z2) == vj.vicreg_loss(z1, z2, *weights, gamma=2.0)


def test_class_is_a_pytree():
    configured = vj.VICRegLoss(25, 25, axis_name="data", precision="default")
    leaves, structure = jax.tree.flatten(configured)
    assert leaves == [25, 25, 1.0, 1.0]
    assert jax.tree.unflatten(structure, leaves) == configured
    assert jax.tree.map(lambda a: 2 * a, configured).lambd == 50
    with pytest.raises(dataclasses.FrozenInstanceError):
        configured.lambd = 1


@pytest.mark.parametrize("precision", ["highest", "high", "default"])
@pytest.mark.parametrize("shape", [(4, 16), (16, 4)])
def test_precision_reaches_every_product(precision, shape):
    z = jnp.ones(shape)
    step = jax.grad(partial(loss, precision=precision), argnums=(0, 1))
    products = str(jax.make_jaxpr(step)(z, z)).split("dot_general")[1:]
    assert len(products) == 4
    name = f"Precision.{precision.upper()}"
    for product in products:
        assert f"precision=({name}, {name})" in product


def test_runs_on_jax_alone():
    """Nothing but JAX is imported, and no global setting is touched."""
    done = completed(PROGRAMS / "runs_on_jax_alone.py")
    assert done.returncode == 0, done.stderr
