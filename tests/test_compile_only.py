"""The whole step, compiled for TPUs: what it needs, and what to do where it is much."""

import dataclasses

import pytest

from vicreg_jax import aot
from vicreg_jax.pretrain import recipes
from vicreg_jax.pretrain.compile_only import _shape, compile_only, memory, table

pytestmark = [
    pytest.mark.usefixtures("optimized", "compiled_with_little_effort"),
    pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures"),
    pytest.mark.slow,
    pytest.mark.skipif(not aot.available(), reason="libtpu is not installed"),
]
GIB = 2**30


def small(**changes):
    changes = {"width": 8, "expander": 256} | changes
    return dataclasses.replace(recipes.digits(), **changes)


@pytest.mark.parametrize("mesh", [None, "data=4,more=2"])
def test_a_small_step(mesh, capsys):
    report = compile_only(small(), "v5e:2x4", mesh)
    assert report.temporaries + report.arguments < GIB
    assert report.flops > 0 and sum(report.moved.values()) > 0
    if mesh:
        assert "all-gather" in report.moved
    shown = [str(cell) for cell in table(report, "v5e:2x4").columns[1].cells]
    assert any("of 16.00 GiB: fits" in cell for cell in shown)


def test_what_does_not_fit_becomes_advice():
    """An expander whose parameters alone need 48 GiB."""
    message = (
        r"--compile-only must name chips with enough .* --accumulate 2 .* --expander"
    )
    with pytest.raises(ValueError, match=message):
        compile_only(small(expander=46_000), "v5e:2x4", None)


@pytest.mark.parametrize(
    "topology, mesh, message",
    [
        ("v5e:9x9x9", None, "`topology` must be known"),
        *[
            (name, None, f"--compile-only must be such as v5e:8x8 or .* got '{name}'")
            for name in ("v5e", "v5litepod-48", "v5litepod-2", "v4-9", "v9-64", "v4-")
        ],
        ("v5e:2x4", "data=3", "`shape` must use every chip"),
        ("v5e:5x5", None, r"--batch must be a multiple of 25 \(25 devices\)"),
    ],
)
def test_chips_that_are_none(topology, mesh, message):
    with pytest.raises(ValueError, match=message):
        compile_only(small(batch=729 if "9" in topology else 128), topology, mesh)


@pytest.mark.parametrize(
    "name, shape",
    [
        ("v5litepod-4", "v5e:2x2"),
        ("v5litepod-64", "v5e:8x8"),
        ("v5litepod-128", "v5e:8x16"),
        ("v6e-8", "v6e:2x4"),
        ("v4-8", "v4:2x2x1"),
        ("v4-64", "v4:2x4x4"),
        ("v5p-16", "v5p:2x2x2"),
        ("v5p-256", "v5p:4x4x8"),
    ],
)
def test_names_of_accelerator_types(name, shape):
    assert _shape(name) == shape
    assert memory(name) == memory(shape) > 0
    number = int(name.partition("-")[2])
    assert aot.mesh(shape).size == number // (2 if shape.count("x") == 2 else 1)


def test_a_step_on_an_accelerator_type():
    """Its chips are those of the grid, which the batch must spread over."""
    with pytest.raises(ValueError, match="--batch must be a multiple of 64 "):
        compile_only(small(batch=100), "v5litepod-64", None)
    assert compile_only(small(), "v5litepod-8", None).flops > 0


def test_imagenet_at_a_batch_of_2048_fits_64_v5e_chips():
    report = compile_only(recipes.imagenet(), "v5e:8x8", None)
    print(report._replace(program=""))
    assert report.arguments + report.temporaries < memory("v5e")
