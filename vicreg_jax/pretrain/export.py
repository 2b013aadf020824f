"""What can be made of a run: its encoder in files, and more probes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import orbax.checkpoint as ocp
from flax import nnx

from vicreg_jax.convert import state_dict, write
from vicreg_jax.pretrain import evaluation, run_folder
from vicreg_jax.pretrain import mesh as meshes
from vicreg_jax.pretrain.checkpoints import Checkpoints
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.input import load_datasets
from vicreg_jax.pretrain.step import Programs, State

if TYPE_CHECKING:
    from vicreg_jax.probe import Accuracies


def export(run: Path) -> list[Path]:
    """Writes the encoder of a run's newest checkpoint into the run's directory.

    backbone.safetensors has PyTorch's names and layout, for a ResNet torchvision's.
    backbone/ is an Orbax checkpoint of the same encoder with Flax's names.

    Args:
        run: the directory of the run.

    Returns:
        The paths that were written.

    Raises:
        UsageError: If `run` is not a run, or has no checkpoint yet.
    """
    programs, state = newest(run)
    encoder = programs.network(state).encoder
    tensors, arrays = run / "backbone.safetensors", run.absolute() / "backbone"
    write(tensors, state_dict(encoder))
    with ocp.StandardCheckpointer() as checkpointer:
        pure = nnx.to_pure_dict(nnx.state(encoder, nnx.Any(nnx.Param, nnx.BatchStat)))
        checkpointer.save(arrays, pure, force=True)
    return [tensors, arrays]


def probe(run: Path, *, data: str | None = None) -> Accuracies:
    """Evaluates the features of a run's newest checkpoint, as at the end of a run.

    Args:
        run: the directory of the run.
        data: labeled images, of which a fifth is held out. None: those of the run.

    Returns:
        Accuracies from 0 to 1, by features and by probe.

    Raises:
        UsageError: If `run` is not a run or has no checkpoint yet, or the images have
            no labels.
    """
    programs, state = newest(run)
    config = programs.config
    if data is not None:
        config = dataclasses.replace(config, data=data, test_data=None)
    result = evaluation.evaluate(programs, state, load_datasets(config))
    if result is None:
        raise UsageError(f"--data must have labels, got {config.data}")
    return result.accuracies


def newest(run: Path) -> tuple[Programs, State]:
    """Returns the programs of a run and its newest state, on one device.

    Raises:
        UsageError: If `run` is not a run, or has no checkpoint yet.
    """
    config = run_folder.read_config(run)
    programs = Programs(config, meshes.make_mesh("data=1"), steps_per_epoch=1)
    checkpoints = Checkpoints(run / "checkpoints")
    restored = checkpoints.restore(programs.start())
    checkpoints.close()
    if restored is None:
        raise UsageError(f"RUN must have a checkpoint, got {run}")
    return programs, restored.state
