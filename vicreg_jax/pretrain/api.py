"""The pretraining job as a Python function, and the runs that it leaves behind.

run = pretrain(recipes.mnist(), out="runs/mnist")
run.encoder.embed(images)    # (images, features)
run.evaluation["VICReg"]     # accuracies of the probes
Run.open("runs/mnist")       # later, or while it runs
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from vicreg_jax.encoder import Encoder, load_encoder
from vicreg_jax.pretrain import export, names, processes, records, run_folder
from vicreg_jax.pretrain.config import Config, Launch, data_setting
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.input.datasets import from_arrays
from vicreg_jax.pretrain.network import EncoderFactory, class_of, own_encoder
from vicreg_jax.pretrain.run import run

if TYPE_CHECKING:
    from vicreg_jax.pretrain.input import Arrays
    from vicreg_jax.probe import Accuracies

Images = str | Path | np.ndarray | tuple[np.ndarray, np.ndarray]
OwnEncoder = nnx.Module | EncoderFactory


@dataclass(frozen=True)
class Run:
    """A run in its directory: running, stopped or finished.

    Every property reads the files anew.

    Attributes:
        run_folder: The directory of the run.
        own_encoder: Makes the encoder, if it was given in Python.
    """

    run_folder: Path
    own_encoder: EncoderFactory | None = None

    @classmethod
    def open(cls, run: str | Path, *, encoder: OwnEncoder | None = None) -> Run:
        """Returns the run in a directory.

        Args:
            run: The directory of the run.
            encoder: What `pretrain` was given as `encoder`.

        Raises:
            ValueError: If it is not the directory of a run.
        """
        # Only to raise its errors early.
        run_folder.read_config(Path(run), argument="`run`")
        return cls(Path(run), None if encoder is None else own_encoder(encoder))

    @property
    def config(self) -> Config:
        """The configuration."""
        return run_folder.read_config(self.run_folder)

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return run_folder.finished(self.run_folder)

    @property
    def encoder(self) -> Encoder:
        """The trained encoder with its preprocessing.

        Before the run is finished, it is that of the newest checkpoint.

        Raises:
            ValueError: If there is no checkpoint yet, or the encoder was given in
                Python and `Run.open` has not got it.
        """
        if not self.finished:
            # A file that is there already may be of an older checkpoint.
            newest = export.newest(self.run_folder, self.own_encoder)
            return export.as_encoder(*newest, self.run_folder)
        model = None
        if self.own_encoder is not None:
            model = self.own_encoder(nnx.Rngs(0))
        return load_encoder(self.run_folder, model)

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """The metrics of all steps so far, one array for each column.

        The columns are those of metrics.jsonl. A step that lacks a number has NaN.
        """
        return _columns(records.read(self.run_folder / "metrics.jsonl"))

    @property
    def quick_checks(self) -> dict[str, np.ndarray]:
        """The quick checks so far, as `metrics`; the columns of evaluations.jsonl."""
        return _columns(records.read(self.run_folder / "evaluations.jsonl"))

    @property
    def evaluation(self) -> Accuracies | None:
        """Accuracies from 0 to 1, by features and by probe.

        None if the run is not finished, or its images have no labels.
        """
        if not self.finished:
            return None
        # A run without labels ends with an empty object.
        return json.loads((self.run_folder / "probes.json").read_text()) or None

    @property
    def picture(self) -> Path | None:
        """The file report.png, or None if it is not drawn yet."""
        path = self.run_folder / "report.png"
        return path if path.exists() else None


def pretrain(
    config: Config,
    *,
    out: str | Path | None = None,
    data: Images | None = None,
    encoder: OwnEncoder | None = None,
    console: Console | Literal["auto"] | None = "auto",
    **settings: Any,
) -> Run:
    """Pretrains an encoder and evaluates it, as ``vicreg-pretrain`` does.

    If it is interrupted, by Ctrl-C or a notebook's stop button, it saves its state. The
    same call then continues the run. A call that differs in larger ``epochs`` alone
    extends the run in `out`, stopped or finished, from its newest checkpoint. The
    learning rate then follows the schedule of the new length.

    Args:
        config: The configuration, from `vicreg_jax.pretrain.recipes` or your own. Its
            ``views`` may be an instance of your own class; see
            `vicreg_jax.augment.Views`.
        out: Directory of the run. None: in runs/, the newest unfinished one of this
            configuration or a new one.
        data: Instead of ``config.data``: a path, uint8 images of shape ``(images,
            height, width, channels)``, or a pair of such images and integer labels of
            shape ``(images,)``. Arrays set ``config.size`` and ``config.channels``. A
            string may also be the name of a dataset, such as "mnist".
        encoder: Instead of ``config.encoder``: a module, or a class or function that
            makes one from `flax.nnx.Rngs`. The module maps views to features of shape
            ``(batch, out_features)``, and has the attribute ``out_features``. The run
            trains a copy of it. With ``distributed=True`` give a class or a function:
            JAX connects the processes before it starts, and the arrays of a module
            start it.
        console: Where to print progress. "auto": the terminal or the notebook. None:
            nothing is printed.
        settings: Fields of `vicreg_jax.pretrain.config.Launch`, such as ``workers=4``.

    Returns:
        The finished run.

    Raises:
        UsageError: If a setting does not fit the images, or the directory holds a run
            with another configuration. It is a ValueError.
        FileExistsError: If the directory holds a finished run; see `Run.open`.
        TypeError: If `encoder` is neither a module nor a function.
        ValueError: If the encoder that it makes lacks ``out_features``, or has state
            that a run cannot keep.
        UnreadableError: If an image cannot be read, with ``unreadable="fatal"``.
        FloatingPointError: If the loss, a gradient or a parameter is not finite.
        Interrupted: If it was asked to stop and has saved its state.
    """
    launch = Launch(out=None if out is None else Path(out), **settings)
    # It would leave no run to return.
    if launch.compile_only is not None:
        raise UsageError(
            "`compile_only` must be None, got "
            f"{launch.compile_only!r}; see vicreg_jax.pretrain.compile_only"
        )
    # Before `class_of`, as an encoder may ask for the devices, which starts JAX.
    processes.connect(launch)
    factory = None if encoder is None else own_encoder(encoder)
    if factory is not None:
        # config.json keeps the class, so that a run is not resumed with another one.
        config = dataclasses.replace(config, encoder_class=class_of(factory))
    source = None
    if isinstance(data, str | Path):
        config = dataclasses.replace(config, data=data_setting(data))
    elif data is not None:
        config, source = _with_arrays(config, data)
    # Chosen once, because the name of a new run holds the time.
    chosen = run_folder.choose(config, launch)
    launch = dataclasses.replace(launch, out=chosen)
    run(config, launch, _console(console), source=source, own_encoder=factory)
    return Run(chosen, factory)


def _with_arrays(config: Config, data: Any) -> tuple[Config, Arrays]:
    """Returns the images, and the configuration with their shape and checksum."""
    parts = data if isinstance(data, tuple) else (data,)
    if len(parts) > 2:
        raise UsageError(
            "`data` must be a path, images, or a pair of images and labels, got "
            f"{len(parts)} items"
        )
    arrays: dict[str, np.ndarray] = {
        name: np.asarray(part)
        for name, part in zip(("images", "labels"), parts, strict=False)
    }
    source = from_arrays(arrays, "`data`")
    height, _, channels = source.shape
    # Without a copy, unless a view was given.
    checksum = hashlib.sha256(np.ascontiguousarray(source.images).data)
    checksum.update(np.ascontiguousarray(source.labels).data)
    # The checksum stands for the path, so that other images are another run.
    name = names.of_arrays(checksum.hexdigest())
    changes = {"data": name, "size": height, "channels": channels}
    return dataclasses.replace(config, **changes), source


def _console(console: Console | Literal["auto"] | None) -> Console:
    if console is None or jax.process_index() != 0:
        return Console(quiet=True)
    return Console() if console == "auto" else console


def _columns(lines: list[records.Line]) -> dict[str, np.ndarray]:
    columns = dict.fromkeys(name for line in lines for name in line)
    return {
        name: np.array([line.get(name, np.nan) for line in lines]) for name in columns
    }
