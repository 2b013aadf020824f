"""What is made of a run afterwards: its encoder in files, and more probes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import orbax.checkpoint as ocp
from flax import nnx

from vicreg_jax.convert import state_dict, write
from vicreg_jax.pretrain import evaluation, run_folder
from vicreg_jax.pretrain import mesh as meshes
from vicreg_jax.pretrain.checkpoints import restore
from vicreg_jax.pretrain.input import load_datasets
from vicreg_jax.pretrain.step import Programs, State

if TYPE_CHECKING:
    from vicreg_jax.probe import Accuracies


def export(run: Path) -> list[Path]:
    """Writes the encoder of a run's newest checkpoint into its folder.

    backbone.safetensors has PyTorch's names and layout, for a ResNet those of
    torchvision; backbone/ is an Orbax checkpoint of the same by Flax's names.

    Args:
        run: the folder of the run.

    Returns:
        What was written.

    Raises:
        ValueError: there is no run, or it has no checkpoint yet.
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
    """Returns what the newest checkpoint's features reach, as at the end of a run.

    Args:
        run: the folder of the run.
        data: labelled images of which a fifth is judged on. None: those of the run.

    Raises:
        ValueError: there is no run, it has no checkpoint yet, or images have no labels.
    """
    programs, state = newest(run)
    config = programs.config
    if data is not None:
        config = dataclasses.replace(config, data=data, test_data=None)
    result = evaluation.evaluate(programs, state, load_datasets(config))
    if result is None:
        raise ValueError(f"`data` must have labels, got {config.data}")
    return result.accuracies


def newest(run: Path) -> tuple[Programs, State]:
    """Returns the programs of a run and its newest state, on one device.

    Raises:
        ValueError: there is no run, or it has no checkpoint yet.
    """
    config = run_folder.read_config(run)
    programs = Programs(config, meshes.make_mesh("data=1"), steps_per_epoch=1)
    restored = restore(run / "checkpoints", programs.start())
    if restored is None:
        raise ValueError(f"`run` must have a checkpoint, got {run}")
    return programs, restored.state
