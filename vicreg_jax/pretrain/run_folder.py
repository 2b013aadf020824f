"""A run's directory: which run it holds, and whether that can be continued.

config.json       the configuration with absolute paths, and the number of training
                  images
run.json          a list of all starts: versions, devices, command, path of the data
views.png         some images and two views of each, as the network sees them
metrics.jsonl     one line per step
evaluations.jsonl one line per quick check
checkpoints/      the newest states
compiled/         JAX's compilation cache, with which the next start compiles nothing
encoder.safetensors  the trained encoder, for `vicreg_jax.load_encoder`
probes.json       accuracies; written last, so it marks a finished run
probes-N-epochs.json  those of a finished run of N epochs, which is being extended
probes-DATA.json  accuracies on other images, by the command probe
features.npz      the held-out features that the picture shows
report.png        the picture
tensorboard/      event files for TensorBoard
profile/          a trace of the steps that --profile names, for XProf
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import jax

from vicreg_jax.augment.stored import views_from_json, views_to_json
from vicreg_jax.pretrain import processes
from vicreg_jax.pretrain.config import Config
from vicreg_jax.pretrain.errors import UsageError, flag
from vicreg_jax.pretrain.names import is_name

if TYPE_CHECKING:
    from vicreg_jax.pretrain.config import Launch

# Orbax lists a directory with `glob`, to which these mean other names.
_WILDCARDS = re.compile(r"[][*?]")


@contextmanager
def claim(
    config: Config,
    launch: Launch,
    *,
    images: int,
    notify: Callable[[str], None] = print,
) -> Iterator[Path]:
    """Makes or finds the directory of the run, and keeps other runs out of it.

    A run whose configuration has fewer epochs, and is the same otherwise, is extended.

    Args:
        config: The configuration of the run.
        launch: Names the directory, or leaves the choice to this function.
        images: Number of training images, which the order of the images depends on.
        notify: Called with a sentence if the run is extended.

    Raises:
        FileExistsError: If the run in it is finished, or another process uses it.
        UsageError: If it cannot be written, or the run in it has another configuration
            or number of images, or is finished and to be extended, but has no
            checkpoint.
    """
    run = choose(config, launch)
    ours = contents(config, images)
    # Processes may take long to read their datasets.
    processes.wait_for_all("claim")
    settings = {f"{name}={value!r}" for name, value in ours.items()}
    if differ := processes.union(settings) - settings:
        raise UsageError(
            "All processes must be given the same flags and images, but another one "
            f"has {', '.join(sorted(differ))}"
        )
    epochs = config.epochs
    with _usable(run):
        if (run / "config.json").exists():
            epochs = _refuse_another(ours, run, type(config))
        else:
            _refuse_other_files(run)
        # After config.json is read: the first process writes them in the opposite
        # order.
        if finished(run):
            _refuse_finished(run, extends=epochs < config.epochs)
        if jax.process_index() == 0:
            run.mkdir(parents=True, exist_ok=True)
            (run / "lock").touch()
    # The first process holds the lock for all of them.
    if jax.process_index() != 0:
        yield run
        return
    with (run / "lock").open("w") as lock:
        if not _locked(lock):
            raise FileExistsError(
                f"--out must not be in use by another process, got {run}"
            )
        if epochs < config.epochs:
            notify(_extend(run, epochs, config.epochs))
        write_json(run / "config.json", ours)
        yield run


def choose(config: Config, launch: Launch) -> Path:
    """Returns the directory that `launch` names, or one in runs/.

    The latter is the newest unfinished run of the configuration, or a new one.

    Raises:
        UsageError: If the path has a wildcard.
    """
    run = launch.out
    if run is None:
        new = Path("runs", f"{_name(config)}-{time.strftime('%Y%m%d-%H%M%S')}")
        run = _unfinished(config) or new
    check_path(run, "--out")
    return run


def check_path(run: Path, argument: str) -> None:
    """Checks the absolute path of a run.

    Args:
        run: The directory of the run.
        argument: The argument that it comes from, for the error.

    Raises:
        UsageError: If it has a wildcard, with which Orbax would find no checkpoint
            there, or those of other runs.
    """
    if _WILDCARDS.search(str(run.absolute())):
        raise UsageError(
            f"{argument} must have none of [ ] * ? in its absolute path, got "
            f"{run.absolute()}"
        )


def finished(run: Path) -> bool:
    """Returns whether the run is complete."""
    return (run / "probes.json").exists()


def has_checkpoint(run: Path) -> bool:
    """Returns whether the run can be resumed or extended."""
    # A save that Orbax has not finished ends in .orbax-checkpoint-tmp, not in a digit.
    return any(run.glob("checkpoints/*[0-9]"))


def contents(config: Config, images: int) -> dict[str, Any]:
    """Returns what config.json holds: a configuration and the number of images.

    Its paths are absolute, so that the run can be read from other directories.

    Raises:
        UsageError: If its views cannot be stored.
    """
    plain = dataclasses.asdict(config)
    for name in config.UNUSED:
        del plain[name]
    for name in ("data", "test_data", "init"):
        if plain.get(name) is not None:
            plain[name] = absolute(plain[name])
    try:
        plain["views"] = views_to_json(config.views)
    except ValueError as error:
        raise UsageError(str(error)) from error
    # As it will be read again: JSON makes lists of tuples.
    return json.loads(json.dumps(plain | {"images": images}))


def absolute(data: str) -> str:
    """Returns the absolute path of images or of a file, or the name of a dataset."""
    return data if is_name(data) else os.path.abspath(data)


def read_config(
    run: Path, kind: type[Config] = Config, *, argument: str = "RUN"
) -> Config:
    """Returns the configuration of a run.

    Args:
        run: The directory of the run.
        kind: Class of the configuration.
        argument: What the command line calls it, for errors.

    Raises:
        UsageError: If it holds no run, or one of another kind or version.
    """
    plain = _read(run, argument)
    if kind is Config and "protocol" in plain:
        raise UsageError(
            f"{argument} must be a pretraining run, got {run}, which holds a classifier"
        )
    try:
        del plain["images"]
        views = views_from_json(plain.pop("views"))
        # Before there was a choice, crops were cut on the devices.
        plain.setdefault("crop", "device")
        # JSON has no tuples.
        for name, value in plain.items():
            plain[name] = tuple(value) if isinstance(value, list) else value
        return kind(**plain, views=views)
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"{argument} must be a run of this version of vicreg_jax, got {run}"
        ) from error
    except ValueError as error:
        raise UsageError(f"{run}/config.json: {error}") from error


def _read(run: Path, argument: str = "RUN") -> dict[str, Any]:
    try:
        return json.loads((run / "config.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UsageError(
            f"{argument} must be the directory of a run, got {run}"
        ) from error


def read_starts(run: Path) -> list[dict[str, Any]]:
    """Returns the starts of a run so far, as run.json has them."""
    try:
        return json.loads((run / "run.json").read_text())
    except (OSError, json.JSONDecodeError):
        return []


def write_json(path: Path, content: Any) -> None:
    """Writes JSON to a file, as `write_whole` does."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Writes a file that exists completely or not at all."""
    # In the same directory, because a rename is atomic within one file system only.
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        partial.write_text(text)
        os.replace(partial, path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names the file in errors, where the system often does not.

    Raises:
        OSError: If the file could not be written.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{path} could not be written: {reason}") from error


@contextmanager
def _usable(run: Path) -> Iterator[None]:
    """Turns the system's errors into errors of --out.

    Errors that this package raises itself have no errno, and pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise UsageError(
            f"--out must be a directory that can be written, got {run}: "
            f"{error.strerror}"
        ) from error


def _refuse_another(ours: dict[str, Any], run: Path, kind: type[Config]) -> int:
    """Returns the epochs of the run, which may be fewer than ours."""
    # Through `Config`, so that settings newer than the run have their defaults.
    argument = "--out"
    config = read_config(run, kind, argument=argument)
    images = _read(run, argument)["images"]
    ours, theirs = map(_by_flag, (ours, contents(config, images)))
    for name in ours:
        extends = name == "epochs" and ours[name] > theirs[name]
        if extends or ours[name] == theirs.get(name):
            continue
        if name == "images":
            raise UsageError(
                f"--data must have {theirs[name]} training images as in the run in "
                f"{run}, got {ours[name]}; for another run give another --out"
            )
        if name in ("init_step", "init_weights"):
            raise UsageError(
                f"RUN or --init must hold the encoder that the classifier in {run} "
                "began with, got another; for another classifier give another --out"
            )
        least = "at least " if name == "epochs" else ""
        raise UsageError(
            f"{flag(name)} must be {least}{theirs[name]!r} as in the run in {run}, "
            f"got {ours[name]!r}; for another run give another --out"
        )
    return theirs["epochs"]


def _by_flag(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings with those of the views by name, as on the command line."""
    views = settings["views"]
    by_name = {f"views.{name}": value for name, value in views.items()}
    # Views of another class have other settings, and are compared as a whole.
    whole = {"views": by_name.pop("views.kind")}
    return settings | whole | by_name


def _refuse_finished(run: Path, *, extends: bool) -> None:
    """Refuses a finished run, unless it can be extended."""
    if not extends:
        raise FileExistsError(
            f"--out must not hold a finished run, got {run}; it can be extended by "
            "larger --epochs"
        )
    if not has_checkpoint(run):
        raise UsageError(
            f"--out must hold a checkpoint to extend its run, got {run}, which has "
            f"none; for another run give another --out, and --init {run}"
        )


def _extend(run: Path, before: int, epochs: int) -> str:
    """Marks the run as not finished, and returns what that means, to print."""
    probes = run / "probes.json"
    # If the process is killed before config.json is written, the run is a stopped one.
    with writing(probes):
        if probes.exists():
            probes.replace(run / f"probes-{before}-epochs.json")
    return (
        f"Extending the run from {before} to {epochs} epochs. The learning rate now "
        f"follows the schedule of {epochs} epochs, so after a finished run it rises "
        f"again. The result is not that of {epochs} epochs from the start."
    )


def _refuse_other_files(run: Path) -> None:
    """Refuses a directory that holds anything but what `claim` itself writes."""
    if run.is_file():
        raise UsageError(f"--out must be a directory, got the file {run}")
    names = {path.name for path in run.iterdir()} if run.exists() else set()
    # By now another process of this run may have begun to write.
    others = names - {"lock", "config.json.partial"}
    if others and "config.json" not in names:
        raise UsageError(
            "--out must be a new or empty directory, or one that holds a run, got "
            f"{run}, which holds {sorted(others)[0]}"
        )


def _name(config: Config) -> str:
    return _WILDCARDS.sub("_", config.name)


def _unfinished(config: Config) -> Path | None:
    wanted = contents(config, 0)  # a changed dataset is refused, not run anew
    runs = sorted(Path("runs").glob(f"{_name(config)}-*"), reverse=True)
    for run in runs:
        if finished(run):
            continue
        try:
            if contents(read_config(run, type(config)), 0) != wanted:
                continue
        except ValueError:
            continue
        # Released on return, because this only leaves out runs in use. `claim` takes
        # the lock for the time of the run.
        with (run / "lock").open("w") as lock:
            if _locked(lock):
                return run
    return None


def _locked(lock: IO) -> bool:
    """Locks a file, or returns False if another process holds the lock."""
    # The system releases it when the process ends, in whatever way.
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
