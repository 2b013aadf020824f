"""How the programs of a run are compiled, and where they are kept."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from quick_compilation import most_optimizations
from runs import MIRRORED, tiny

from vicreg_jax.pretrain import compilation
from vicreg_jax.pretrain.mesh import make_mesh
from vicreg_jax.pretrain.step import Programs


@pytest.fixture
def no_other_cache():
    """Takes away the cache that a user may have named."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_options_are_those_that_the_compiler_has():
    options = compilation.compiler_options(make_mesh("data=1"))
    assert options == compilation._WITHOUT_YNNPACK
    program = jax.jit(lambda x: x + 1, compiler_options=options)
    assert program(1.0) == 2
    assert not compilation._exist(("xla_cpu_of_another_jaxlib", ""))


@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
def test_the_step_is_compiled_with_them(monkeypatch):
    """An option that no compiler has is refused, where the step is compiled."""
    monkeypatch.setattr(
        compilation, "compiler_options", lambda mesh: {"xla_no_such_option": "1"}
    )
    monkeypatch.setattr(
        "vicreg_jax.pretrain.step.compiler_options", compilation.compiler_options
    )
    programs = Programs(tiny(views=MIRRORED), make_mesh("data=1"), 9)
    batch = jnp.zeros((8, 8, 8, 1), jnp.uint8), jnp.ones(8)
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        programs.train(programs.start(), *batch)


@pytest.fixture
def fully_optimized():
    """As users compile, but for the cache of programs."""
    with most_optimizations(True):
        yield


def test_a_lower_level_draws_the_same_bits(fully_optimized):
    lowered = jax.jit(nnx.initializers.he_normal(), static_argnums=1).lower(
        jax.random.key(0), (33, 17)
    )
    options = compilation.options_to_run_seldom(make_mesh("data=1"))
    assert options == compilation._RUN_SELDOM
    programs = [lowered.compile(compiler_options=o) for o in ({}, options)]
    np.testing.assert_array_equal(*(draw(jax.random.key(1)) for draw in programs))


@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
def test_shapes_of_a_state_with_compiler_options(fully_optimized):
    """JAX refuses to trace a program that has compiler options of its own."""
    programs = Programs(tiny(views=MIRRORED), make_mesh("data=1"), 9)
    assert programs.state_shapes.step.dtype == jnp.int32


def compiled(seen):
    """Returns the events of JAX's cache: what it found, and what it did not."""
    kinds = {"/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"}
    return [event.rpartition("_")[2] for event in seen if event in kinds]


def test_what_was_compiled_is_found_again(tmp_path, no_other_cache):
    seen = []

    def listen(event, **_):
        seen.append(event)

    def program(x):
        return jnp.sin(x) * 3

    x = jnp.arange(7.0)
    jax.monitoring.register_event_listener(listen)
    try:
        with compilation.kept_in(tmp_path / "compiled"):
            first = jax.jit(program)(x)
        jax.clear_caches()
        with compilation.kept_in(tmp_path / "compiled"):
            again = jax.jit(program)(x)
    finally:
        jax.monitoring.unregister_event_listener(listen)
    np.testing.assert_array_equal(first, again)
    assert compiled(seen) == ["misses", "hits"]
    assert jax.config.jax_compilation_cache_dir is None


def test_an_entry_that_was_cut_short_is_compiled_again(tmp_path, no_other_cache):
    x = jnp.arange(5.0)
    with compilation.kept_in(tmp_path):
        jax.jit(jnp.cos)(x)
    (entry,) = tmp_path.glob("*cache")
    entry.write_bytes(entry.read_bytes()[:100])
    jax.clear_caches()
    with compilation.kept_in(tmp_path), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        np.testing.assert_allclose(jax.jit(jnp.cos)(x), np.cos(x), rtol=1e-6)
    assert any("compilation cache" in str(warning.message) for warning in caught)


def test_the_users_own_cache_stays(tmp_path, no_other_cache):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    with compilation.kept_in(tmp_path / "compiled"):
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    assert not (tmp_path / "compiled").exists()
