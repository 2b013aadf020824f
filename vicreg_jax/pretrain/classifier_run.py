"""A classifier on a pretrained encoder, from its images to its accuracies."""

from __future__ import annotations

import hashlib
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx

from vicreg_jax.augment import SupervisedViews
from vicreg_jax.decode import UnreadableError
from vicreg_jax.pretrain import mesh as meshes
from vicreg_jax.pretrain import processes, records, run_folder
from vicreg_jax.pretrain.classifier import TOP, Classifier
from vicreg_jax.pretrain.classifier_config import ClassifierConfig
from vicreg_jax.pretrain.classifier_result import result, table
from vicreg_jax.pretrain.embed import open_encoder
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.evaluation import unreadable_summary
from vicreg_jax.pretrain.features import in_order
from vicreg_jax.pretrain.input import load_datasets
from vicreg_jax.pretrain.input.device import on_mesh
from vicreg_jax.pretrain.input.labels import labeled
from vicreg_jax.pretrain.input.sources import has_files
from vicreg_jax.pretrain.loop import Loop
from vicreg_jax.pretrain.printing import print_line
from vicreg_jax.pretrain.run import claimed, trained

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from vicreg_jax.augment import Views
    from vicreg_jax.pretrain.config import Launch
    from vicreg_jax.pretrain.input import Batch, Source
    from vicreg_jax.pretrain.records import Log
    from vicreg_jax.pretrain.step import State
    from vicreg_jax.probe import Accuracies

_LABELS = 1000  # of records, which are compared with --classes


def settings(
    path: Path | None,
    mesh: str | None = None,
    *,
    data: str | None = None,
    test_data: str | None = None,
    argument: str = "RUN",
    **others: Any,
) -> tuple[ClassifierConfig, Any]:
    """Returns the settings of a classifier, and its pretrained encoder.

    Args:
        path: A run, whose newest checkpoint is used, or a file of an encoder.
        mesh: Devices to restore the checkpoint on; see `mesh.axes`.
        data: Training images. None: the images of the run.
        test_data: Test images. None: those of the run, or a part of `data`.
        argument: What the command line calls `path`, for errors.
        others: Other fields of `ClassifierConfig`.

    Raises:
        UsageError: If a setting is out of range, or the encoder cannot be read.
    """
    if path is None:
        raise UsageError("RUN or --init must be given, got neither")
    encoder = open_encoder(path, mesh, argument=argument)
    _check_views(encoder.views, others.get("augmentation", "crops"))
    evaluate_on = "test"
    if data is None:
        if not (path / "config.json").is_file():
            raise UsageError(f"--data must be given with the file {path}, got none")
        run = run_folder.read_config(path, argument=argument)
        data = run.data
        # A run that was evaluated on validation images has not used its test images.
        # Its classifiers do not either, unless they are given some.
        if test_data is None:
            test_data, evaluate_on = run.test_data, run.evaluate_on
    settings = ClassifierConfig(
        init=str(path),
        init_step=encoder.about.get("step"),
        init_weights=_checksum(encoder.model),
        data=data,
        test_data=test_data,
        evaluate_on=evaluate_on,
        size=encoder.size,
        channels=encoder.channels,
        views=encoder.views,
        crop=encoder.crop,
        **others,
    )
    return settings, encoder.model


def _check_views(views: Views, augmentation: str) -> None:
    """Refuses to train on crops if the views cannot leave out their other changes."""
    if augmentation == "crops" and not isinstance(views, SupervisedViews):
        raise UsageError(
            "--views must be pretraining or none for an encoder whose views have no "
            f"method `crops_only`, got crops for {views}"
        )


def _checksum(model: Any) -> str:
    # Kept in config.json: a resumed classifier is refused another encoder.
    checksum, kept = hashlib.sha256(), nnx.Any(nnx.Param, nnx.BatchStat)
    for name, tensor in nnx.to_flat_state(nnx.state(model, kept)):
        checksum.update(repr(name).encode() + np.asarray(tensor[...]).tobytes())
    return checksum.hexdigest()[:16]


def run(
    config: ClassifierConfig, model: Any, launch: Launch, console: Console
) -> Accuracies:
    """Trains and tests a classifier, or continues where an earlier process stopped.

    It raises what `vicreg_jax.pretrain.pretrain` raises.

    Args:
        config: The settings.
        model: The pretrained encoder, a Flax module.
        launch: Where and how to carry it out.
        console: Where to print.

    Returns:
        By learning rate, "top-1" and "top-5" of the last epoch, and "best top-1" of all
        epochs that were tested, from 0 to 1. There is no top-5 of five classes or less.
    """
    loop = _loop(config, model, launch, console)
    with claimed(loop) as out:
        with closing(loop.train_iterator):
            _describe(loop, out)
            # The pretrained encoder is in this state, so there is nothing to change.
            trained(loop, out, loop.programs.start)
        # From the file, because an earlier process may have tested some of the epochs.
        tests = records.read(out / "evaluations.jsonl")
        found = result(tests)
        if jax.process_index() == 0:
            run_folder.write_json(out / "probes.json", found)
    unreadable = processes.union(loop.train_iterator.unreadable | loop.unreadable)
    if unreadable:
        print_line(console, unreadable_summary(unreadable))
    console.print(table(tests))
    print_line(
        console,
        "The results are those of the last epoch. The best top-1 is chosen among the "
        "tested epochs by the test images, as the official code does.\n"
        f"Everything is in {out}",
    )
    return found


def accuracies(
    programs: Classifier,
    state: State,
    source: Source,
    *,
    workers: int = 0,
    unreadable: set[str] | None = None,
) -> dict[str, float]:
    """Returns the accuracies of each head on all readable images, from 0 to 1.

    They are "top-1" and, of more than five classes, "top-5", each followed by the
    learning rate of the head. Errors are also those of `readable_features`.

    Args:
        programs: The programs of the classifier.
        state: The state whose heads are tested.
        source: The images.
        workers: Processes that read and decode images. 0: this process does.
        unreadable: Set to which the names of the images are added that this process
            could not read.

    Raises:
        UsageError: If no image has a label.
    """
    rows = in_order(programs, source, workers)
    with closing(rows):
        parts = [programs.count(state, *programs.inputs(batch)) for batch in rows]
    if unreadable is not None:
        unreadable |= rows.unreadable
    # Fetched at the end, so that the devices do not wait for the host.
    total = jax.tree.map(lambda *part: np.sum(part, axis=0), *jax.device_get(parts))
    if total.images == 0:
        raise UsageError(f"--test-data must have labels, got {source.name(0)} without")
    # `classifier_result` parses these names.
    found = {}
    for at, rate in enumerate(programs.config.lr):
        found[f"top-1 at {rate:g}"] = float(total.top1[at] / total.images)
        if programs.config.classes > TOP:
            found[f"top-5 at {rate:g}"] = float(total.top5[at] / total.images)
    return found


@dataclass(frozen=True)
class _Loop(Loop):
    """The training loop of a classifier, which is tested every few epochs.

    Attributes:
        test: The images to test it on.
        unreadable: Names of those that this process could not read.
    """

    programs: Classifier
    test: Source
    unreadable: set[str] = field(default_factory=set)

    @property
    def _check_program(self):
        return self.programs.count

    def _check_is_due(self, done: int) -> bool:
        # The result is that of the last epoch.
        return done == self.steps or super()._check_is_due(done)

    def _quick_check(self, state: State, batch: Batch, done: int, log: Log) -> None:
        del batch
        found = accuracies(
            self.programs,
            state,
            self.test,
            workers=self.launch.workers,
            unreadable=self.unreadable,
        )
        epoch = done // self.programs.steps_per_epoch
        log.quick_check({"step": done, "epoch": epoch} | found)
        shown = ", ".join(f"{name} {100 * value:.1f}%" for name, value in found.items())
        print_line(self.console, f"Epoch {epoch}: {shown}")


def _loop(
    config: ClassifierConfig, model: Any, launch: Launch, console: Console
) -> _Loop:
    """Opens the images, and returns the loop with the settings that depend on them."""
    started = time.monotonic()
    mesh = meshes.make_mesh(launch.mesh)
    # Classifiers do not split a batch into parts.
    meshes.check_batch(config.batch, 1, mesh.size)
    whole = load_datasets(config)
    if whole.held_out is None:
        raise UsageError(
            "--data must have labels, such as a subfolder for each class, got "
            f"{config.data}"
        )
    train = labeled(whole.train, config.labels, seed=config.seed)
    parts = whole.train, whole.held_out
    named = max(len(part.classes) for part in parts)
    if 0 < config.classes < named:
        raise UsageError(
            f"--classes must be at least {named}, the classes of the images, got "
            f"{config.classes}"
        )
    if config.classes:
        for part in parts:
            _check_some_labels(part, config.classes)
    # After the images are opened, because the number of classes and the share of the
    # labels decide the size and the rates of the heads.
    config = config.resolved(
        classes=config.classes or _classes(parts), share=len(train) / len(whole.train)
    )
    train_iterator = on_mesh(
        config,
        train,
        mesh,
        # Padding would change the statistics of batch norms in train mode.
        drop_remainder=config.finetunes,
        workers=launch.workers,
    )
    steps_per_epoch = train_iterator.order.steps_per_epoch
    return _Loop(
        Classifier(config, mesh, steps_per_epoch, model=model),
        replace(launch, recipe=config.protocol),
        whole._replace(train=train),
        train_iterator,
        console,
        started,
        launch.profiled(config.epochs * steps_per_epoch),
        whole.held_out,
    )


def _check_some_labels(part: Source, classes: int) -> None:
    """Refuses labels of records, which have no names of classes, that are too large.

    Of larger sets it reads a sample: all labels would be known without --classes.
    """
    if part.classes or not has_files(part):
        return
    for index in np.unique(np.linspace(0, len(part) - 1, _LABELS).astype(int)).tolist():
        try:
            _, label = part.read(index, lambda _: None)
        except UnreadableError:
            continue  # --unreadable says what to do with it
        if label >= classes:
            raise UsageError(
                f"--classes must be above every label, got {classes} and the label "
                f"{label} of {part.name(index)}"
            )


def _classes(parts: Iterable[Source]) -> int:
    """Returns the number of classes. Records have none, so all of them are read."""
    return max(len(p.classes) or int(p.labels.max()) + 1 for p in parts)


def _describe(loop: _Loop, out: Path) -> None:
    programs = loop.programs
    config = programs.config
    rates = ", ".join(f"{rate:g}" for rate in config.lr)
    if config.finetunes:
        rates += f" of the head, {config.lr_backbone:g} of the encoder"
    encoder = "trained" if config.finetunes else "frozen"
    at = "" if config.init_step is None else f" at step {config.init_step}"
    # `linear` takes all images of a set smaller than its batch.
    batch = min(config.batch, len(loop.datasets.train))
    for line in (
        f"Classifier: {config.classes} classes, on the {encoder} encoder of "
        f"{config.init}{at}",
        f"Images: {len(loop.datasets.train)} to train on, {len(loop.test)} to test "
        f"on, of {config.data}",
        f"Training: {config.epochs} epochs of {programs.steps_per_epoch} steps, "
        f"{batch} images in a step, learning rate {rates}",
        f"Directory: {out}",
    ):
        print_line(loop.console, line)
