"""How the tests run: eight CPU devices, strict dtypes, signatures enforced."""

import functools
import gc
import os
import sys
import tempfile
import typing

# Before JAX starts: a CPU that looks like eight devices.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

# Before OpenMP starts, which PyTorch and scikit-learn use: threads that wait for others
# would keep their core, which other processes need. Beside three busy ones on two cores
# a t-SNE of 360 points took 13 CPU seconds, and 2.9 with this (2026-11-27).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Also for processes that the tests start: no Python frames in compiled programs, where
# only profiles show them. Finding them is 8% of the time of test_devices.py and others
# that compile much (2026-11-27).
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"

import beartype  # noqa: F401
import jax
import jaxtyping
import pytest
import quick_compilation
from jax._src.interpreters import mlir
from jaxtyping import install_import_hook

from benchmarks import peak

jax.config.update("jax_numpy_dtype_promotion", "strict")

# With its usual 700, Python searches all of JAX, Flax and PyTorch for garbage again and
# again while JAX traces: 5 to 10% of the time of test_devices.py (2026-11-26).
gc.set_threshold(100_000, 20, 50)

# JAX loads its compiler's dialects for each program, in 4 ms of CPU time. The tests
# compile five thousand small ones, so the programs of a file share what it loads.
mlir.make_ir_context = functools.cache(mlir.make_ir_context)

# The package imports jaxtyping for type checkers only, so that it runs on JAX alone.
# The tests import it at run time as well, and beartype checks every signature with it.
typing.TYPE_CHECKING = True
with install_import_hook("vicreg_jax", "beartype.beartype"):
    import vicreg_jax  # noqa: F401
typing.TYPE_CHECKING = False


_MUCH = 2**30  # bytes, half of what a process of the tests may take


def pytest_configure(config):
    """Compiles quickly, as compiling takes most of the tests' time."""
    if "VICREG_JAX_TEST_CACHE" not in os.environ:
        # The workers of pytest-xdist, and what they start, inherit the name.
        directory = tempfile.TemporaryDirectory(prefix="vicreg_jax-")
        config.add_cleanup(directory.cleanup)
        os.environ["VICREG_JAX_TEST_CACHE"] = directory.name
    jax.config.update("jax_disable_most_optimizations", True)
    given = quick_compilation.in_one_part(os.environ["XLA_FLAGS"])
    os.environ["XLA_FLAGS"] = given
    if config.option.markexpr == "not slow":
        # Also in the processes that the tests start.
        os.environ.update(quick_compilation.environment(given))
    elif "not optimized" in config.option.markexpr:
        # Not in those processes: some of them compile as users do.
        os.environ["XLA_FLAGS"] = quick_compilation.with_quick_flags(given)
        jax.devices()  # XLA reads its flags once
        os.environ["XLA_FLAGS"] = given


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks the tests that compile as users do, so that others can compile quickly."""
    for item in items:
        if "optimized" in item.fixturenames:
            item.add_marker("optimized")


def pytest_collection_finish():
    """Keeps the collector away from what lives until the end: modules and tests.

    A full collection took a third of a second, and some tests ask for many.
    """
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter, config):
    """Names what a run without the slow tests leaves out, which `-rs` does not see.

    Under pytest-xdist the workers collect the tests, and their number is unknown here.
    """
    if config.option.markexpr != "not slow" or config.get_verbosity() < 0:
        return
    deselected = terminalreporter.stats.get("deselected", [])
    slow = sum(item.get_closest_marker("slow") is not None for item in deselected)
    if slow or config.option.numprocesses:
        terminalreporter.write_line(
            f"deselected: {slow or 'the'} slow tests. `pytest -m slow` runs every "
            "slow test, including those that need libtpu, Slurm, Open MPI, the "
            "released losses or a disk to fill."
        )


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Frees the programs of each file of tests, which would fill gigabytes."""
    yield
    jax.clear_caches()
    mlir.make_ir_context.cache_clear()
    if sys.platform != "linux" or peak.status("VmRSS") > _MUCH:
        # What the C library keeps of their memory. Returning it takes a second.
        peak.release()


@pytest.fixture(scope="module")
def optimized(pytestconfig):
    """Compiles as users do, in the slow tests of a file."""
    quick = pytestconfig.option.markexpr == "not slow"
    jax.clear_caches()  # which do not ask how a program was compiled
    with quick_compilation.most_optimizations(not quick):
        yield


@pytest.fixture(scope="module")
def small_kernels():
    """Compiles for TPUs faster; see `quick_compilation`."""
    with quick_compilation.small_kernels():
        yield


@pytest.fixture(scope="module")
def compiled_with_little_effort(small_kernels):
    """Compiles whole steps for TPUs faster still; see `quick_compilation`."""
    with quick_compilation.little_effort():
        yield


@pytest.fixture
def x64():
    """Runs a test with float64 switched on, which holds in any program."""
    with quick_compilation.most_optimizations(False), jax.enable_x64(True):
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
