"""The commands of `vicreg-pretrain`, as tyro reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    TypeVar,
    Union,
)

import jax
import tyro
from rich.console import Console

from vicreg_jax.augment import DigitViews, ImageViews
from vicreg_jax.pretrain import recipes
from vicreg_jax.pretrain.classifier_config import LINEAR_DECAY, LINEAR_LR
from vicreg_jax.pretrain.config import Config, Launch
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.printing import print_line
from vicreg_jax.pretrain.recipes import RECIPES

if TYPE_CHECKING:
    from vicreg_jax.probe import Accuracies

RunFolder = tyro.conf.Positional[Path]


@dataclass(frozen=True)
class Pretrain:
    """Pretrain with a recipe."""

    # An empty name leaves out the prefix: --batch instead of --config.batch.
    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands] = (
        field(default_factory=Config)
    )
    launch: Annotated[Launch, tyro.conf.arg(name="")] = field(default_factory=Launch)

    def run(self) -> None:
        """Pretrains, or compiles only."""
        # Here, so that --help does not wait for it.
        from vicreg_jax.pretrain.api import pretrain

        console = Console()
        if self.launch.compile_only:
            _compile_only(self.config, self.launch, console)
            return
        launch = {item.name: getattr(self.launch, item.name) for item in fields(Launch)}
        run = pretrain(self.config, console=console, **launch)
        if jax.process_index() == 0:
            _print(run.evaluation, console)


@dataclass(frozen=True)
class Export:
    """Write the encoder of a run as encoder.safetensors, with its preprocessing."""

    run_folder: Annotated[RunFolder, tyro.conf.arg(name="run")]
    """Directory of the run."""

    def run(self) -> None:
        """Writes the files."""
        from vicreg_jax.pretrain.export import export

        print(export(self.run_folder))


@dataclass(frozen=True)
class Probe:
    """Evaluate the features of a run with probes, on its own images or on others."""

    run_folder: Annotated[RunFolder, tyro.conf.arg(name="run")]
    """Directory of the run."""
    data: str | None = None
    """Labeled images, a fifth of which is held out. None: those of the run."""

    def run(self) -> None:
        """Probes the features."""
        from vicreg_jax.pretrain.export import probe

        probed = probe(self.run_folder, data=self.data)
        console = Console()
        print_line(console, probed.summary)
        _print(probed.accuracies, console)


@dataclass(frozen=True)
class Embed:
    """Write the features of images, and draw their nearest neighbors."""

    source: Annotated[RunFolder, tyro.conf.arg(name="encoder")]
    """Directory of a run, or a file of `export`, torchvision or timm."""
    data: str
    """Images: mnist, digits, elpv, canvas, a folder of images or of CIFAR, or files of
    arrays or records."""
    out: Path = Path("features.npz")
    """File for the features, and the names, labels and classes of the images."""
    neighbors: int = 0
    """Draw this many nearest neighbors of some images, as a PNG beside --out. 0: no
    picture."""
    query: tuple[Path, ...] | None = None
    """Draw the neighbors of these image files. None: of some images of --data."""
    unreadable: Literal["skip", "fatal"] = "skip"
    """Skip images that cannot be read, or stop at the first."""

    def run(self) -> None:
        """Embeds the images."""
        from vicreg_jax.pretrain.embed import embed

        for line in embed(
            self.source,
            self.data,
            self.out,
            neighbors=self.neighbors,
            queries=self.query,
            unreadable=self.unreadable,
        ):
            print(line)


@dataclass(frozen=True)
class Report:
    """Draw report.png of a run, finished or not, and print its accuracies."""

    run_folder: Annotated[RunFolder, tyro.conf.arg(name="run")]
    """Directory of the run."""

    def run(self) -> None:
        """Draws the picture."""
        from vicreg_jax.pretrain import classifier_result, records
        from vicreg_jax.pretrain.report import redraw

        accuracies = redraw(self.run_folder)
        console = Console()
        print_line(console, f"Drew {self.run_folder / 'report.png'}")
        tests = records.read(self.run_folder / "evaluations.jsonl")
        if table := classifier_result.table(tests):
            console.print(table)
        else:
            _print(accuracies, console)


def _launch() -> Launch:
    # After every epoch, since the official code reports the best of them.
    return Launch(probe_every=1)


@dataclass(frozen=True, kw_only=True)
class _Classify:
    """What both protocols of a classifier share."""

    run_folder: Annotated[
        tyro.conf.Positional[Path | None], tyro.conf.arg(name="run")
    ] = None
    """Directory of the run whose newest encoder is used. None: that of --init."""
    init: Path | None = None
    """File with the encoder: of `export`, torchvision or timm."""
    data: str | None = None
    """Labeled training images. None: those of the run."""
    test_data: str | None = None
    """Labeled test images. None: those of the run, or a fifth of --data."""
    views: Literal["crops", "pretraining", "none"] = "crops"
    """Augmentation: the crops and flips of pretraining, all of pretraining, or none."""
    classes: int = 0
    """Number of classes. 0: counted, which reads all records if --data has records."""
    batch: int = 256
    """Images in a step, on all devices together."""
    seed: int = 0
    """Seed of the head, the views, the order of images and the labels drawn."""
    unreadable: Literal["skip", "fatal"] = "skip"
    """Skip images that cannot be read, or stop at the first."""

    def _run(self, protocol: Literal["linear", "finetune"], **changes: Any) -> None:
        from vicreg_jax.pretrain import classifier_run, processes

        settings = {item.name: getattr(self, item.name) for item in fields(self)}
        settings |= changes
        run_folder, init = settings.pop("run_folder"), settings.pop("init")
        launch: Launch = settings.pop("launch")
        if run_folder is not None and init is not None:
            raise UsageError(
                "RUN and --init must not be given together, got "
                f"{run_folder} and {init}"
            )
        # Before the encoder is read, which starts JAX. It could not connect after that.
        processes.connect(launch)
        config, model = classifier_run.settings(
            run_folder or init,
            # The devices that are compiled for are not here.
            "data=1" if launch.compile_only else launch.mesh,
            protocol=protocol,
            argument="--init" if run_folder is None else "RUN",
            augmentation=settings.pop("views"),
            **settings,
        )
        console = Console(quiet=jax.process_index() != 0)
        if launch.compile_only:
            _compile_only(config, launch, console, model=model)
            return
        classifier_run.run(config, model, launch, console)


@dataclass(frozen=True, kw_only=True)
class Linear(_Classify):
    """Train a linear classifier on the frozen encoder, as the paper evaluates it."""

    lr: Annotated[tuple[float, ...], tyro.conf.arg(aliases=["--learning-rate"])] = (
        LINEAR_LR,
    )
    """Learning rates, all trained at once; the official code's is 0.02."""
    weight_decay: float = LINEAR_DECAY
    """Weight decay of the head, its bias included."""
    epochs: int = 100
    """Passes over the training images."""
    launch: Annotated[Launch, tyro.conf.arg(name="")] = field(default_factory=_launch)

    def run(self) -> None:
        """Trains and tests the classifier."""
        if not self.lr:
            raise UsageError("--lr must have at least one rate, got none")
        self._run("linear")


@dataclass(frozen=True, kw_only=True)
class Finetune(_Classify):
    """Train encoder and classifier on 1% or 10% of the labels, as in the paper."""

    labels: str
    """Labels to use: a share of each class such as 1%, or a list of image files."""
    lr: Annotated[float | None, tyro.conf.arg(aliases=["--learning-rate"])] = None
    """Learning rate of the head. None: the official one for 1% or 10%."""
    lr_backbone: float | None = None
    """Learning rate of the encoder. None: the official one for 1% or 10%."""
    weight_decay: float = 0.0
    """Weight decay of all parameters."""
    epochs: int = 20
    """Passes over the images with labels."""
    launch: Annotated[Launch, tyro.conf.arg(name="")] = field(default_factory=_launch)

    def run(self) -> None:
        """Trains and tests encoder and classifier."""
        # `ClassifierConfig.resolved` fills in both of them or none.
        if (self.lr is None) != (self.lr_backbone is None):
            given, missing = (
                ("--lr-backbone", "--lr")
                if self.lr is None
                else ("--lr", "--lr-backbone")
            )
            raise UsageError(
                f"--lr and --lr-backbone must be given together, got {given} without "
                f"{missing}"
            )
        rates = () if self.lr is None else (self.lr,)
        self._run("finetune", lr=rates, lr_backbone=self.lr_backbone or 0.0)


# tyro prints the docstrings of these classes, and of their fields, as help.
_COMMANDS = {
    "export": Export,
    "probe": Probe,
    "linear": Linear,
    "finetune": Finetune,
    "embed": Embed,
    "report": Report,
}
IMAGES = "images"
# The help of the recipe `images`, whose settings depend on the images.
_SHOWN = Config(data="FOLDER", size=64, channels=3, views=ImageViews(size=64))
KINDS = {"views:digits": DigitViews, "views:images": ImageViews}


def recipe_runs(
    kind: str | None = None, images: Config | None = None
) -> dict[str, Pretrain]:
    """Returns a run of each recipe by its name.

    Args:
        images: What the recipe `images` returned. None: what its help shows.
        kind: Name in `KINDS` of the views to use, in the size of the recipe's. None:
            those of the recipe.
    """
    runs = {}
    configs = {name: recipe() for name, recipe in RECIPES.items()}
    configs[IMAGES] = images or _SHOWN
    for name, config in configs.items():
        if kind is not None:
            views = KINDS[kind](size=config.views.size)
            config = dataclasses.replace(config, views=views)
        runs[name] = Pretrain(config, Launch(recipe=name))
    return runs


def subcommands(runs: dict[str, Pretrain]) -> Any:
    """Returns the union of which tyro makes each recipe and command a subcommand."""
    pretraining = [
        Annotated[
            Pretrain,
            tyro.conf.subcommand(
                name,
                default=run,
                # One line, because tyro prints all of it in the list of subcommands.
                description=(_recipe(name).__doc__ or "").partition("\n")[0],
                prefix_name=False,
            ),
        ]
        for name, run in runs.items()
    ]
    commands = [
        Annotated[command, tyro.conf.subcommand(name, prefix_name=False)]
        for name, command in _COMMANDS.items()
    ]
    # Not written with `|`, because its members are known at run time only.
    return Union[tuple(pretraining + commands)]  # noqa: UP007


CommandT = TypeVar("CommandT")


@dataclass(frozen=True)
class CommandLine(Generic[CommandT]):
    """Pretrain an encoder with VICReg, or use a run. RECIPE --help lists its flags."""

    command: Annotated[CommandT, tyro.conf.arg(name="")]
    version: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the version and stop."""


def names() -> list[str]:
    """Returns the names of all recipes and commands."""
    return [*RECIPES, IMAGES, *_COMMANDS]


def _recipe(name: str) -> Callable[..., Config]:
    return recipes.images if name == IMAGES else RECIPES[name]


def _compile_only(
    config: Config, launch: Launch, console: Console, *, model: Any = None
) -> None:
    """Compiles a training step, and prints what it needs."""
    from vicreg_jax.pretrain import compile_only

    topology = launch.compile_only or ""
    report = compile_only.compile_only(
        config,
        topology,
        launch.mesh,
        model=model,
        notify=partial(print_line, console),
    )
    console.print(compile_only.table(report, topology))


def _print(accuracies: Accuracies | None, console: Console) -> None:
    from vicreg_jax.pretrain.report import table

    if accuracies:
        console.print(table(accuracies, "Probes on held-out images, %"))
