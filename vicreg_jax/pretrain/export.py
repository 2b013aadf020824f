"""What can be made of a run: its encoder in files, and more probes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

import vicreg_jax
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

    Returns:
        The file, which `vicreg_jax.load_encoder` reads. Its tensors have PyTorch's
        names and layout: those of torchvision for a ResNet, of timm for a ConvNeXt or
        a ViT.

    Raises:
        UsageError: If `run` is not a run, or has no checkpoint yet.
    """
    return write_encoder(run, *newest(run))


def write_encoder(run: Path, programs: Programs, state: State) -> Path:
    """Writes the encoder of a state into a run's directory, and returns the file."""
    # On the host: the first process of several calls this alone, and a computation on
    # their devices would need all of them.
    on_host = jax.device_get(state._replace(optimizer=None))
    frozen = as_encoder(programs, on_host, run)
    path = run / encoder.FILE
    with run_folder.writing(path):
        encoder.save_encoder(
            path,
            frozen.model,
            views=frozen.views,
            size=frozen.size,
            channels=frozen.channels,
            crop=frozen.crop,
            **frozen.about,
        )
    return path


def as_encoder(
    programs: Programs, state: State, run: Path | None = None
) -> encoder.Encoder:
    """Returns the encoder of a state in eval mode, with its preprocessing.

    Args:
        programs: The programs of the run.
        state: The state.
        run: The directory of the run, whose recipe is recorded if it has one.
    """
    config, model = programs.config, programs.network(state).encoder
    model.eval()
    about: dict[str, Any] = {
        "package": f"vicreg_jax {vicreg_jax.__version__}",
        "architecture": architecture(config),
        "data": config.data,
        "step": int(state.step),
        "epochs": config.epochs,
    }
    starts = run_folder.read_starts(run) if run else []
    if starts and (recipe := starts[-1].get("recipe")):
        about["recipe"] = recipe
    return encoder.Encoder(
        model, config.views, config.size, config.channels, about, config.crop
    )


class Probed(NamedTuple):
    """The probes of a run's features on some images.

    Attributes:
        accuracies: From 0 to 1, by features and by probe.
        summary: The checkpoint and the images, to print.
        file: Where they were written.
    """

    accuracies: Accuracies
    summary: str
    file: Path


def probe(run: Path, *, data: str | None = None) -> Probed:
    """Evaluates the features of a run's newest checkpoint, as at the end of a run.

    The result is written into the directory of the run, as probes-DATA.json.

    Args:
        run: The directory of the run.
        data: Labeled images, of which a fifth is held out. None: those of the run.

    Raises:
        UsageError: If `run` is not a run or has no checkpoint yet, or the images have
            no labels.
    """
    programs, state = newest(run)
    config = programs.config
    if data is not None:
        # Without the run's test images, so that a part of `data` is held out: once, and
        # not a second time for validation.
        config = dataclasses.replace(
            config, data=data, test_data=None, evaluate_on="test"
        )
    datasets = load_datasets(config)
    result = evaluation.evaluate(programs, state, datasets)
    if result is None:
        raise UsageError(
            "--data must have labels, such as a subfolder for each class, got "
            f"{config.data}"
        )
    classes = len(np.unique(result.held_out.labels))
    # Not probes.json, which would mark a stopped run as finished.
    file = run / f"probes-{_file_name(config.data)}.json"
    facts = {"data": config.data, "step": int(state.step), "classes": classes}
    facts |= result.counts | {"accuracies": result.accuracies}
    run_folder.write_json(file, facts)
    summary = (
        f"Checkpoint of step {int(state.step)}, {classes} classes of {config.data}. "
        f"{result.summary}\nWritten to {file}"
    )
    return Probed(result.accuracies, summary, file)


def _file_name(data: str) -> str:
    """Returns the end of a path, such as "imagenet-val", for the name of a file."""
    return re.sub(r"[^\w.]+", "-", data).strip("-.")[-100:]


def newest(
    run: Path,
    own_encoder: EncoderFactory | None = None,
    *,
    mesh: str | None = "data=1",
    argument: str = "RUN",
) -> tuple[Programs, State]:
    """Returns the programs of a run and its newest state.

    Args:
        run: The directory of the run.
        own_encoder: Makes the encoder, if it was given in Python.
        mesh: Devices; see `vicreg_jax.pretrain.mesh.axes`.
        argument: What the command line calls `run`, for errors.

    Raises:
        UsageError: If `run` is not a run, has no checkpoint yet, or has a path with a
            wildcard.
    """
    config = run_folder.read_config(run, argument=argument)
    run_folder.check_path(run, argument)
    # The steps of an epoch set the learning rate alone, which nobody asks for here.
    programs = Programs(
        config, meshes.make_mesh(mesh), steps_per_epoch=1, own_encoder=own_encoder
    )
    # From shapes, because an initial state would be computed only to be overwritten.
    restored = restore(run / "checkpoints", programs.state_shapes)
    if restored is None:
        raise UsageError(f"{argument} must have a checkpoint, got {run}")
    return programs, restored.state
