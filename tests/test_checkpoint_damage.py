"""Whatever happens to the files, what was saved comes back, or the one before."""

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
    """A folder with checkpoints of steps 1 and 2."""
    return save_two(tmp_path / "two")


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def assert_not_fooled(folder, like):
    """It restores the newest as it was, or says why it took the one before."""
    restored, warnings = restore(folder, like)
    assert_identical(restored.state, state_of(restored.step))
    assert restored.extra == {"at": restored.step}
    if restored.step == 2:
        assert not warnings
        return False
    assert restored.step == 1
    (warning,) = warnings
    assert f"{folder / '00000002'} is skipped: " in warning
    return True


@pytest.mark.parametrize("places", thinned([1, 4], keep=[1]))
def test_flipped_bits(two, places):
    """One bit, in every file of the newest checkpoint, at several places."""
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
    """Bits of the values themselves, which Orbax alone restores without a word."""
    values = np.random.default_rng(0).standard_normal(1024).astype(np.float32)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(1024)}, {})
        checkpoints.save(2, {"x": jnp.asarray(values)}, {})
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


def test_what_is_no_checkpoint(two, tmp_path):
    like = state_of(0)
    (two / "00000003").mkdir()
    (two / "00000004").write_text("garbage")
    (two / "00000005.orbax-checkpoint-tmp").mkdir()
    shutil.copytree(two / "00000002", two / "00000006")
    (two / "config.json").write_text("{}")
    warnings = []
    with Checkpoints(two, keep=2, warn=warnings.append) as checkpoints:
        assert checkpoints.restore(like).step == 2
        reasons = ("of step 2 under", "was cut off", "cannot be read", "cannot be read")
        for warning, reason in zip(warnings, reasons, strict=True):
            assert reason in warning
        checkpoints.save(5, state_of(5), {}, wait=True)
    left = ["00000002", "00000005", "00000006", "config.json"]
    assert sorted(os.listdir(two)) == left
    for name in left:
        shutil.rmtree(two / name, ignore_errors=True)
    assert restore(two, like) == (None, [])


def test_warns_by_default(two):
    (two / "00000003").mkdir()
    with Checkpoints(two) as checkpoints:
        with pytest.warns(UserWarning, match="00000003 is skipped: its manifest"):
            assert checkpoints.restore(state_of(0)).step == 2
