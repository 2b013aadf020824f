"""Convolutions of maps smaller than their kernels, as matrix products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vicreg_jax.nn.layers import Layers
from vicreg_jax.nn.small_maps import convolve

LAYOUT = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
# Height and width, size of the kernel, stride, padding.
SHAPES = [
    (1, 1, 3, 1, 1),
    (2, 2, 3, 1, 1),
    (2, 2, 3, 2, 1),
    (4, 4, 3, 2, 1),
    (3, 9, 3, 2, 1),
    (2, 5, 3, 1, 1),
    (5, 4, 3, 3, 0),
    (9, 6, 7, 2, 3),
]


def drawn(height, width, size, dtype=np.float32):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((5, height, width, 4))
    kernel = rng.standard_normal((size, size, 4, 6))
    return jnp.asarray(images, dtype), jnp.asarray(kernel, dtype)


def arguments(stride, padding):
    return (stride, stride), [(padding, padding)] * 2


def usual(images, kernel, *given):
    return jax.lax.conv_general_dilated(images, kernel, *given, **LAYOUT)


def both(function, images, kernel, *given, of=lambda x: x):
    """Returns the result, and the gradients of both arguments, of all numbers."""
    value, backward = jax.vjp(lambda *x: function(*x, *given), of(images), of(kernel))
    weights = np.random.default_rng(1).standard_normal(value.shape)
    return value, *backward(jnp.asarray(of(weights), value.dtype))


def ours(*arguments):
    return convolve(*arguments, **LAYOUT)


@pytest.mark.parametrize("height, width, size, stride, padding", SHAPES)
def test_is_the_convolution(x64, height, width, size, stride, padding):
    arrays = drawn(height, width, size, np.float64)
    given = arguments(stride, padding)
    found = jax.jit(lambda *x: both(ours, *x, *given))(*arrays)
    wanted = jax.jit(lambda *x: both(usual, *x, *given))(*arrays)
    sizes = jax.jit(lambda *x: both(usual, *x, *given, of=abs))(*arrays)
    # Each entry is a sum, of fewer terms than there are numbers in the maps or the
    # kernel, and both sides are rounded.
    terms = max(array.size for array in arrays)
    for got, want, most in zip(found, wanted, sizes, strict=True):
        assert got.shape == want.shape
        assert np.all(np.abs(got - want) <= 2 * terms * 2.0**-53 * most)


@pytest.mark.parametrize(
    "side, stride, convolutions",
    [(1, 1, 0), (2, 1, 0), (4, 2, 0), (3, 1, 1), (8, 2, 1)],
)
def test_where_it_is_a_product(side, stride, convolutions):
    """In values and gradients; larger maps are convolved."""
    images, kernel = drawn(side, side, 3)
    given = arguments(stride, 1)
    program = jax.jit(lambda *x: both(ours, *x, *given)).lower(images, kernel).as_text()
    assert program.count("stablehlo.convolution") == 3 * convolutions


def test_half_precision_is_convolved():
    images, kernel = drawn(2, 2, 3, jnp.bfloat16)
    given = arguments(1, 1)
    wanted = usual(images, kernel, *given)
    np.testing.assert_array_equal(ours(images, kernel, *given), wanted)


def test_networks_use_it():
    layer = Layers(nnx.Rngs(0)).conv(4, 6, 3)
    images, _ = drawn(2, 2, 3)
    wanted = usual(images, layer.kernel[...], *arguments(1, 1))
    np.testing.assert_allclose(layer(images), wanted, rtol=1e-5, atol=1e-5)
    program = jax.jit(layer).lower(images).as_text()
    assert "stablehlo.convolution" not in program
