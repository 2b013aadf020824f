"""LARS and the schedule against the official code's, in PyTorch and in its formula."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vicreg_jax.nn import Expander
from vicreg_jax.optim import adamw, lars, paper_base_lr, paper_schedule, warmup_cosine

STEPS, EPOCH_STEPS = 60, 3


def official_rate(step, *, base_lr, batch, epochs, epoch_steps):
    """The paper's schedule, step for step, as a formula in float64."""
    peak, warm = base_lr * batch / 256, 10 * epoch_steps
    if step < warm:
        return peak * step / warm
    share = (1 + math.cos(math.pi * (step - warm) / (epochs * epoch_steps - warm))) / 2
    return peak * share + 0.001 * peak * (1 - share)


PAPER = dict(base_lr=0.3, batch=2048, epochs=20, epoch_steps=EPOCH_STEPS)
RATES = np.array([official_rate(step, **PAPER) for step in range(STEPS)])


@pytest.mark.usefixtures("x64")
def test_schedule_is_the_papers():
    schedule = paper_schedule(**PAPER)
    rates = jax.jit(jax.vmap(schedule))(jnp.arange(STEPS, dtype=jnp.int32))
    np.testing.assert_allclose(rates, RATES, rtol=1e-14, atol=1e-16)
    assert RATES[0] == 0 and RATES.max() == 0.3 * 2048 / 256


def test_schedule_is_float32_without_x64():
    rate = paper_schedule(**PAPER)(jnp.int32(45))
    assert rate.dtype == jnp.float32
    np.testing.assert_allclose(rate, RATES[45], rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_lars_is_the_official_one_over_a_schedule():
    """All parameters of every step, to rounding: the learning rate is not in them."""
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("parity.training_torch")
    rng = np.random.default_rng(0)
    start = {
        "kernel": rng.standard_normal((8, 5)),
        "convolution": rng.standard_normal((3, 3, 2, 4)),
        "zeros": np.zeros((4, 3)),
        "still": rng.standard_normal((3, 2)),
        "bias": rng.standard_normal(5),
        "scale": np.zeros(7),
    }
    # Gradients of very different sizes; of one matrix none at all, ever, but decay.
    gradients = [
        {
            name: 10.0 ** rng.uniform(-4, 2) * rng.standard_normal(p.shape)
            for name, p in start.items()
        }
        | {"still": np.zeros((3, 2))}
        for _ in range(STEPS)
    ]
    tensors = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in start.items()}
    official = theirs.LARS(list(tensors.values()), lr=1.0)
    params = jax.tree.map(jnp.asarray, start)
    tx = lars(paper_schedule(**PAPER), weight_decay=theirs.WEIGHT_DECAY)
    memory, update = jax.jit(tx.init)(params), jax.jit(tx.update)
    for rate, gradient in zip(RATES, gradients, strict=True):
        official.param_groups[0]["lr"] = float(rate)
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(gradient[name])
        official.step()
        updates, memory = update(gradient, memory, params)
        params = optax.apply_updates(params, updates)
        for name, tensor in tensors.items():
            expected = tensor.detach().numpy()
            error = np.linalg.norm(params[name] - expected)
            assert error <= 1e-12 * np.linalg.norm(expected), name
    assert all(np.any(params[name] != start[name]) for name in start)


@pytest.mark.usefixtures("x64")
def test_optax_lars_is_another_under_a_schedule():
    """The reason for ours: Optax's keeps past learning rates in its momentum."""
    params = {"kernel": jnp.ones((2, 2))}
    schedule = warmup_cosine(1.0, steps=STEPS, warmup_steps=STEPS // 2)
    seen = []
    for tx in (lars(schedule, weight_decay=0.0), optax.lars(schedule)):
        p, memory, update = params, tx.init(params), jax.jit(tx.update)
        for _ in range(5):
            updates, memory = update(params, memory, p)
            p = optax.apply_updates(p, updates)
        seen.append(float(p["kernel"][0, 0]) - 1)
    assert abs(seen[0] / seen[1] - 1) > 0.2


@pytest.mark.usefixtures("x64")
def test_clipped_trust_is_never_above_the_schedule():
    """Written out in float64 NumPy: the rate of a layer is the smaller of two."""
    rng = np.random.default_rng(1)
    start = {"large": 30 * rng.standard_normal((4, 3)), "small": np.eye(3) * 1e-3}
    start |= {"zeros": np.zeros((2, 3))}
    gradients = rng.standard_normal((STEPS, 3))
    tx = lars(
        paper_schedule(**PAPER), weight_decay=0.1, trust_coefficient=0.1, clip=True
    )
    params, memory = jax.tree.map(jnp.asarray, start), jax.jit(tx.init)(start)
    update = jax.jit(tx.update)
    expected, velocity = dict(start), dict.fromkeys(start, 0.0)
    clipped = 0
    for rate, gradient in zip(RATES, gradients, strict=True):
        alike = {n: np.broadcast_to(gradient, p.shape) for n, p in params.items()}
        updates, memory = update(alike, memory, params)
        params = optax.apply_updates(params, updates)
        for name, p in expected.items():
            step = gradient + 0.1 * p
            alone = 0.1 * np.linalg.norm(p) / np.linalg.norm(step)
            clipped += alone > rate
            # A layer of zeros has no size to trust, and takes the schedule's.
            share = min(alone, rate) / rate if rate and np.any(p) else 1.0
            velocity[name] = 0.9 * velocity[name] + share * step
            expected[name] = p - rate * velocity[name]
            np.testing.assert_allclose(params[name], expected[name], rtol=1e-11)
    assert 5 < clipped < 2 * STEPS - 5


@pytest.mark.usefixtures("x64")
def test_a_clipped_layer_without_a_step_stays():
    """No gradient and no decay: a norm of 0 to divide by."""
    params = {"still": jnp.ones((2, 2))}
    tx = lars(lambda _: 1.0, weight_decay=0.0, clip=True)
    updates, _ = tx.update(
        params | {"still": jnp.zeros((2, 2))}, tx.init(params), params
    )
    np.testing.assert_array_equal(updates["still"], 0)


def test_a_clipped_step_keeps_its_dtype():
    params = {"kernel": jnp.full((2, 2), 0.5, jnp.bfloat16)}
    tx = lars(lambda _: 0.5, weight_decay=0.0, trust_coefficient=0.25, clip=True)
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    # Of equal norms the trust is its coefficient; exact powers of two all of it.
    assert updates["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(updates["kernel"].astype(jnp.float32), -0.125)


def test_lars_leaves_vectors_alone():
    model = Expander(4, 8, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    tx = lars(lambda _: 1.0, weight_decay=0.1)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = jax.jit(tx.update)(ones, jax.jit(tx.init)(params), params)
    for update, param in zip(
        jax.tree.leaves(updates), jax.tree.leaves(params), strict=True
    ):
        if param.ndim == 1:
            np.testing.assert_array_equal(update, -1)
        else:
            # The step's norm is eta times the parameter's.
            size = np.linalg.norm(update) / np.linalg.norm(param)
            np.testing.assert_allclose(size, 0.001, rtol=1e-5)


@pytest.mark.parametrize(
    "batch, epochs, rate",
    [
        (128, 100, 0.8),
        (256, 100, 0.5),
        (512, 100, 0.4),
        (513, 100, 0.3),
        (1024, 100, 0.3),
        (2048, 100, 0.3),
        (2048, 999, 0.3),
        (2048, 1000, 0.2),
    ],
)
def test_base_learning_rate(batch, epochs, rate):
    assert paper_base_lr(batch=batch, epochs=epochs) == rate


def test_a_run_must_outlast_its_warm_up():
    with pytest.raises(ValueError, match="`epochs` must be above 10, .*, got 10"):
        paper_schedule(0.3, batch=256, epochs=10, epoch_steps=5)
    assert paper_schedule(0.3, batch=256, epochs=11, epoch_steps=5)(50) == 0.3


def test_a_run_that_ends_in_its_warm_up():
    """Only `paper_schedule` refuses it: trying things out takes a few steps."""
    schedule = warmup_cosine(2.0, steps=5, warmup_steps=10)
    rates = [float(schedule(step)) for step in (0, 5, 10, 11)]
    np.testing.assert_allclose(rates, [0, 1, 2, 0.002], rtol=1e-5)


def test_schedule_rises_then_falls_to_a_thousandth():
    schedule = warmup_cosine(2.0, steps=100, warmup_steps=10)
    rates = [float(schedule(step)) for step in (0, 5, 10, 55, 100)]
    np.testing.assert_allclose(rates, [0, 1, 2, (2 + 0.002) / 2, 0.002], rtol=1e-5)


@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
def test_only_matrices_decay():
    params = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}
    tx = adamw(lambda _: 1.0, weight_decay=0.1)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(tx.update)(zeros, tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.1, rtol=1e-6)
    np.testing.assert_array_equal(updates["scale"], 0)
