"""How the tests run: eight CPU devices, strict dtypes, signatures enforced."""

import os
import typing

# Before JAX starts: a CPU that looks like eight devices.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import beartype  # noqa: F401
import jax
import jaxtyping
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_dtype_promotion", "strict")

# The package imports jaxtyping for type checkers only, so that it runs on JAX alone.
# Here it shall import it for real, and beartype shall hold every signature to it.
typing.TYPE_CHECKING = True
with install_import_hook("vicreg_jax", "beartype.beartype"):
    import vicreg_jax  # noqa: F401
typing.TYPE_CHECKING = False


@pytest.fixture
def x64():
    """Runs a test with float64 switched on."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def relaxed_promotion():
    """Lets Flax, Optax and dm-pix mix dtypes, as they do for everybody else."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def unchecked_signatures():
    """Lets ill-typed arguments reach the package's own checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
