"""Classifiers in two processes with one device each, and in one process with two.

The bits are the same: a sum over two devices has two terms, in whatever order.
"""

import json

import few_digits
import pytest
from interruption import interrupted, tell_to_stop
from processes import checkpoints, command, end, of_two, started
from runs import begun, seen, tiny

from vicreg_jax.pretrain import records

pytestmark = pytest.mark.slow
_FLAGS = [
    *("--views", "none", "--batch", str(few_digits.BATCH), "--epochs", "3"),
    *("--log-every", "4", "--checkpoint-every", "4", "--probe-every", "2"),
    *("--no-tensorboard", "--out"),
]
# XLA gives a process at least as many threads as it has devices, and products may
# depend on how many there are.
_THREADS = "2"


@pytest.fixture
def encoder(tmp_path, relaxed_promotion, unchecked_signatures):
    """A run before its first step, with its encoder in a file."""
    _, data = few_digits.labeled(tmp_path)
    out = tmp_path / "encoder"
    begun(out, tiny(data=data, batch=few_digits.BATCH), few_digits.TRAINED)
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
        words += [*few_digits.labeled(tmp_path), "--labels", "50%", *_FLAGS]

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
