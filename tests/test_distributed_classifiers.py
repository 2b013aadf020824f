"""Classifiers in two processes with one device each, and in one process with two.

The bits are the same: a sum over two devices has two terms, in whatever order.
"""

import json

import pytest
from interruption import interrupted, tell_to_stop
from processes import checkpoints, command, end, of_two, started
from runs import seen, tiny

from vicreg_jax.pretrain import records, run_folder
from vicreg_jax.pretrain.checkpoints import Checkpoints
from vicreg_jax.pretrain.export import write_encoder
from vicreg_jax.pretrain.mesh import make_mesh
from vicreg_jax.pretrain.step import Programs

pytestmark = pytest.mark.slow
_FLAGS = [
    *("--views", "none", "--batch", "128", "--epochs", "3", "--probe-every", "2"),
    *("--log-every", "4", "--checkpoint-every", "4", "--no-tensorboard", "--out"),
]
# XLA gives a process at least as many threads as it has devices, and products may
# depend on how many there are.
_THREADS = "2"


@pytest.fixture
def encoder(tmp_path, relaxed_promotion, unchecked_signatures):
    """A run before its first step, with its encoder in a file."""
    out, config = tmp_path / "encoder", tiny()
    out.mkdir()
    run_folder.write_json(out / "config.json", run_folder.contents(config, images=1437))
    programs = Programs(config, make_mesh("data=1"), steps_per_epoch=11)
    state = programs.start()
    with Checkpoints(out / "checkpoints") as store:
        store.save(0, state, wait=True)
    write_encoder(out, programs, state)
    return out


def ended(*processes):
    with started(*processes):
        found = [end(process) for process in processes]
    assert not any(status for status, _ in found), found


def bits(out):
    """Returns the metrics, the tests, the result, and the digest of each array."""
    last = f"{checkpoints(out)[-1]:08}"
    manifest = out / "checkpoints" / last / "manifest" / "metadata"
    tests = records.read(out / "evaluations.jsonl")
    result = json.loads((out / "probes.json").read_text())
    return seen(out), tests, result, json.loads(manifest.read_text())


@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_two_processes_are_one_classifier(encoder, tmp_path, protocol):
    if protocol == "linear":
        words = ["linear", encoder, "--lr", "0.1", "0.5", *_FLAGS]
    else:
        words = ["finetune", "--init", encoder / "encoder.safetensors"]
        words += ["--data", "digits", "--labels", "50%", *_FLAGS]

    def pair(out):
        return [command(*words, out, *one, NPROC=_THREADS) for one in of_two()]

    if protocol == "linear":
        # Stopped and resumed; `finetune` is not, to save time.
        out, stopped = interrupted(tmp_path, pair, tell_to_stop)
        assert [status for status, _ in stopped] == [75, 75], stopped
    else:
        out = tmp_path / "pair"
    ended(*pair(out))
    one = tmp_path / "one"
    ended(command(*words, one, devices=2, NPROC=_THREADS))
    found = bits(out)
    assert [test["epoch"] for test in found[1]] == [2, 3]
    assert found == bits(one)
