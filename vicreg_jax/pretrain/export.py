"""What can be made of a run: its encoder in files, and more probes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from vicreg_jax import encoder
from vicreg_jax.pretrain import evaluation, run_folder
from vicreg_jax.pretrain import mesh as meshes
from vicreg_jax.pretrain.checkpoints import restore
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.input import load_datasets
from vicreg_jax.pretrain.network import EncoderFactory, architecture
from vicreg_jax.pretrain.step import Programs, State

if TYPE_CHECKING:
    from vicreg_jax.probe import Accuracies


def export(run: Path) -> Path:
    """Writes the encoder of a run's newest checkpoint into the run's directory.

    Args:
        run: the directory of the run.

    Returns:
        The file, which `vicreg_jax.load_encoder` reads. Its tensors have PyTorch's
        names and layout, for a ResNet torchvision's.

    Raises:
        UsageError: If `run` is not a run, or has no checkpoint yet.
    """
    return write_encoder(run, *newest(run))


def write_encoder(run: Path, programs: Programs, state: State) -> Path:
    """Writes the encoder of a state into a run's directory, and returns the file."""
    config, path = programs.config, run / encoder.FILE
    with run_folder.writing(path):
        encoder.save_encoder(
            path,
            programs.network(state).encoder,
            architecture=architecture(config),
            views=config.views,
            size=config.size,
            channels=config.channels,
            data=config.data,
            step=int(state.step),
            epochs=config.epochs,
        )
    return path


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


def newest(
    run: Path, own_encoder: EncoderFactory | None = None
) -> tuple[Programs, State]:
    """Returns the programs of a run and its newest state, on one device.

    Args:
        run: the directory of the run.
        own_encoder: makes the encoder, if it was given in Python.

    Raises:
        UsageError: If `run` is not a run, or has no checkpoint yet.
    """
    config = run_folder.read_config(run)
    programs = Programs(
        config, meshes.make_mesh("data=1"), steps_per_epoch=1, own_encoder=own_encoder
    )
    restored = restore(run / "checkpoints", programs.start())
    if restored is None:
        raise UsageError(f"RUN must have a checkpoint, got {run}")
    return programs, restored.state
