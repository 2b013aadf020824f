"""Damaged files: what was saved is restored, or the checkpoint before it."""

import os
import random
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from checkpointing import WITH_ORBAX, assert_identical, restore, save_two, state_of
from grids import thinned

from vicreg_jax.pretrain.checkpoints import Checkpoints

pytestmark = WITH_ORBAX


@pytest.fixture
def two(tmp_path):
    """A directory with checkpoints of steps 1 and 2."""
    return save_two(tmp_path / "two")


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def files(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


def assert_not_fooled(directory, like):
    """Checks that it restores the newest as it was, or warns and takes the other."""
    restored, warnings = restore(directory, like)
    assert_identical(restored.state, state_of(restored.step))
    if restored.step == 2:
        assert not warnings
        return False
    assert restored.step == 1
    (warning,) = warnings
    assert f"{directory / '00000002'} is skipped: " in warning
    return True


@pytest.mark.parametrize("places", thinned([1, 4], keep=[1]))
def test_flipped_bits(two, places):
    """One bit at several places of every file of the newest checkpoint."""
    choose, like, noticed = random.Random(places), state_of(0), 0
    for path in files(two / "00000002"):
        for _ in range(places):
            bit = choose.randrange(8 * path.stat().st_size)
            flip(path, bit)
            noticed += assert_not_fooled(two, like)
            flip(path, bit)
    assert noticed > 2 * places
    assert restore(two, like)[0].step == 2


def test_flipped_bits_of_values(tmp_path):
    """Bits of the values themselves, which Orbax alone restores without an error."""
    values = np.random.default_rng(0).standard_normal(1024).astype(np.float32)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(1024)})
        checkpoints.save(2, {"x": jnp.asarray(values)})
    largest = max(files(tmp_path / "00000002"), key=lambda path: path.stat().st_size)
    for bit in range(8 * 1000, 8 * 3000, 3989):
        flip(largest, bit)
        restored, (warning,) = restore(tmp_path, {"x": jnp.zeros(1024)})
        assert restored.step == 1
        assert "skipped" in warning
        flip(largest, bit)


@pytest.mark.parametrize(
    "harm",
    thinned(["missing", "truncated", "emptied", "zeros"], keep=["truncated"]),
)
def test_harmed_files(two, harm):
    for path in files(two / "00000002"):
        content = path.read_bytes()
        path.write_bytes(
            {
                "truncated": content[: len(content) // 2],
                "zeros": bytes(len(content)),
            }.get(harm, b"")
        )
        if harm == "missing":
            path.unlink()
        assert_not_fooled(two, state_of(0))
        path.write_bytes(content)
    assert restore(two, state_of(0))[0].step == 2


def test_what_is_no_checkpoint(two):
    like = state_of(0)
    (two / "00000003").mkdir()
    (two / "00000004").write_text("garbage")
    (two / "00000005.orbax-checkpoint-tmp").mkdir()
    shutil.copytree(two / "00000002", two / "00000006")
    (two / "config.json").write_text("{}")
    warnings = []
    with Checkpoints(two, keep=2, warn=warnings.append) as checkpoints:
        assert checkpoints.restore(like).step == 2
        reasons = ("was cut off", "not the one saved for step 6", "cannot be read")
        for warning, reason in zip(warnings, reasons, strict=True):
            assert reason in warning
        checkpoints.save(5, state_of(5), wait=True)
    # A file is no checkpoint for Orbax, whatever its name.
    left = ["00000002", "00000004", "00000005", "00000006", "config.json"]
    assert sorted(os.listdir(two)) == left
    for name in ("00000002", "00000005", "00000006"):
        shutil.rmtree(two / name)
    assert restore(two, like) == (None, [])


def test_the_step_of_a_damaged_checkpoint_is_saved_again(two):
    (two / "00000002" / "manifest" / "metadata").unlink()
    warnings = []
    with Checkpoints(two, warn=warnings.append) as checkpoints:
        assert checkpoints.restore(state_of(0)).step == 1
        checkpoints.save(2, state_of(2))
    assert len(warnings) == 1
    restored, warnings = restore(two, state_of(0))
    assert (restored.step, warnings) == (2, [])
    assert_identical(restored.state, state_of(2))


def test_damaged_ones_are_not_among_those_kept(two):
    for name in ("00000003", "00000004"):
        (two / name).mkdir()
    with Checkpoints(two, keep=2, warn=lambda _: None) as checkpoints:
        assert checkpoints.restore(state_of(0)).step == 2
        checkpoints.save(3, state_of(3), wait=True)
        assert sorted(os.listdir(two)) == ["00000002", "00000003", "00000004"]
        checkpoints.save(5, state_of(5), wait=True)
    assert sorted(os.listdir(two)) == ["00000003", "00000005"]


def test_warns_by_default(two):
    (two / "00000003").mkdir()
    with Checkpoints(two) as checkpoints:
        with pytest.warns(UserWarning, match="00000003 is skipped: its manifest"):
            assert checkpoints.restore(state_of(0)).step == 2
