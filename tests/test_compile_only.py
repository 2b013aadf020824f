"""The whole step, compiled for TPUs: what it needs, and what to do where it is much."""

import dataclasses

import pytest

from vicreg_jax import aot
from vicreg_jax.pretrain import recipes
from vicreg_jax.pretrain.compile_only import compile_only, memory, table

pytestmark = [
    pytest.mark.usefixtures("optimized", "relaxed_promotion", "unchecked_signatures"),
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
        r"--compile-only must name chips that hold .* --accumulate 2 .* --expander"
    )
    with pytest.raises(ValueError, match=message):
        compile_only(small(expander=46_000), "v5e:2x4", None)


@pytest.mark.parametrize(
    "topology, mesh, message",
    [
        ("v5e:9x9x9", None, "`topology` must be known"),
        ("v5e", None, "--compile-only must be such as v5e:8x8, got 'v5e'"),
        ("v5e:2x4", "data=3", "`shape` must use every chip"),
        ("v5e:5x5", None, "--batch must be a multiple of the 25 devices"),
    ],
)
def test_chips_that_are_none(topology, mesh, message):
    with pytest.raises(ValueError, match=message):
        compile_only(small(batch=729 if "9" in topology else 128), topology, mesh)


def test_imagenet_at_a_batch_of_2048_fits_64_v5e_chips():
    report = compile_only(recipes.imagenet(), "v5e:8x8", None)
    print(report._replace(program=""))
    assert report.arguments + report.temporaries < memory("v5e")
