"""The configuration of a run, and how the run is carried out."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

import tyro

from vicreg_jax.augment import DigitViews, Views
from vicreg_jax.augment.views import cropped_on
from vicreg_jax.optim import WARMUP_EPOCHS
from vicreg_jax.pretrain.errors import UsageError, check_at_least, flag

if TYPE_CHECKING:
    from vicreg_jax.augment import CenterCrop
    from vicreg_jax.augment.crops import Cropping

EncoderName: TypeAlias = Literal[
    "small",
    "resnet18",
    "resnet34",
    "resnet50",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
    "vit_small",
    "vit_base",
]
_LEAST = {
    "batch": 2,  # rows for a variance
    "seed": 0,
    "size": 1,
    "width": 1,
    "expander": 1,
    "local_expander": 1,
    "epochs": 1,
    "accumulate": 1,
    "probe_images": 1,
}
_PROFILE = re.compile(r"\d+:[1-9]\d*")
_DISTRIBUTED_ONLY = ("coordinator", "num_processes", "process_id", "heartbeat")


@dataclass(frozen=True)
class Config:
    """All settings that decide the trained parameters.

    The defaults suit small images in memory; see `recipes`.

    Raises:
        UsageError: If a setting is out of range, or two do not fit together.
    """

    # tyro shows the string below a field as its help on the command line. A run from
    # before a field existed is read with the default of the field. If such runs did
    # something else, `run_folder.read_config` must say so, as for `crop`.
    UNUSED: ClassVar[tuple[str, ...]] = ()  # fields that config.json leaves out

    data: str = "mnist"
    """Training images: mnist, digits, elpv, canvas, a folder of images or of CIFAR, or
    files of arrays or records."""
    test_data: str | None = None
    """Labeled test images, named like --data. None: a fifth of --data."""
    evaluate_on: Literal["test", "validation"] = "test"
    """Evaluate on the test images or, for tuning, on a fifth of the training images."""
    size: int = 28
    """Side in pixels of whole images. Image files are resized to such squares; arrays
    must have this size. Views are cut from these squares with --crop device only. The
    recipe images sets --views.size to it as well."""
    channels: int = 1
    """Channels of the images: 1 for grayscale, 3 for RGB."""
    unreadable: Literal["skip", "fatal"] = "skip"
    """Skip images that cannot be read, or stop at the first."""
    views: Views = field(default_factory=DigitViews)
    """Random augmentations, and their size. The argument views:images or views:digits
    selects another kind."""
    crop: Literal["host", "device"] = "host"
    """Where views:images of files are cropped: on the host from the original pixels, or
    on the devices from squares of --size, which needs less time of the host and loses
    detail. Arrays, and other views without `crops`, are cropped on the devices."""
    encoder: EncoderName = "small"
    """Encoder. small is a ResNet of three stages with 1, 2 and 4 times --width. The
    ViTs have patches of 16 pixels."""
    # No flag, because an encoder of one's own is given in Python only.
    encoder_class: Annotated[str | None, tyro.conf.Suppress] = None
    """Class of an encoder that was given in Python, as module:Class. It replaces
    `encoder`."""
    init: str | None = None
    """Weights to start the encoder from: a finished run, or a file of `export`,
    torchvision or timm. None: random weights."""
    width: int = 32
    """small and ResNets only: channels of the stem; 64 in the standard ResNets."""
    small_images: bool = False
    """Use a ResNet stem with stride 1 and no pooling, for images of about 32 pixels."""
    drop_path: float = 0.0
    """ConvNeXt and ViT only: probability that a sample skips the last block. It rises
    linearly from 0 over the blocks."""
    expander: int = 512
    """Width of the expander's layers and of the embeddings."""
    alpha: float | None = None
    """Share of the global loss in VICRegL, the rest is the local loss. None: VICReg."""
    local_expander: int = 512
    """VICRegL only: width of the layers of the expander of feature maps."""
    location_matches: tuple[int, int] = (20, 4)
    """VICRegL only: matches by location, of a pair's first and of its second view."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the network's computations. Parameters and statistics are float32."""
    lambd: float = 25.0
    """Weight of the invariance term."""
    mu: float = 25.0
    """Weight of the variance term, which is twice its mean over views."""
    nu: float = 1.0
    """Weight of the covariance term, which is twice its mean over views."""
    optimizer: Literal["adamw", "lars"] = "adamw"
    """AdamW, or LARS as in the official code."""
    learning_rate: float | None = 6e-3
    """Peak learning rate. None: the paper's for --batch and --epochs."""
    trust_coefficient: float = 1e-3
    """LARS only: norm of a layer's update over the norm of its parameters, at a
    learning rate of 1."""
    clip_trust: bool = False
    """LARS only, as in solo-learn: each layer's rate is the smaller one of its trust
    ratio and the learning rate."""
    weight_decay: float = 1e-4
    """Weight decay of the kernels. Batch norms and biases have none."""
    warmup: float | None = 0.1
    """Share of the steps with a rising learning rate. None: the first 10 epochs."""
    epochs: int = 36
    """Passes over the training images. A larger number extends the run in --out."""
    batch: int = 128
    """Images in a step, on all devices together. Each image gives two views or more."""
    accumulate: int = 1
    """Split each batch into this many parts, one after the other, to save memory. Batch
    norms use the statistics of a part, the loss those of the whole batch."""
    seed: int = 0
    """Seed of the parameters, the views, the order of images and the probes' labels."""
    probe_images: int = 5000
    """Largest number of images that the final probes train on, and evaluate on."""
    evaluation: Literal["probes", "k-NN"] = "probes"
    """Final evaluation: linear probes and k-NN of --probe-images, or k-NN of all."""

    @property
    def crops(self) -> tuple[Cropping, ...]:
        """What the host cuts from image files for the views. Empty: nothing."""
        views = cropped_on(self.crop, self.views)
        return views.crops if views else ()

    @property
    def plain_crops(self) -> tuple[CenterCrop, ...]:
        """What the host cuts from image files for the probes. Empty: nothing."""
        views = cropped_on(self.crop, self.views)
        return views.plain_crops if views else ()

    def __post_init__(self):
        """Checks the settings."""
        for name, least in _LEAST.items():
            check_at_least(name, getattr(self, name), least)
        for name in ("lambd", "mu", "nu", "weight_decay"):
            _check_finite(name, getattr(self, name), positive=False)
        for name in ("trust_coefficient", "learning_rate"):
            _check_finite(name, getattr(self, name), positive=True)
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise UsageError(f"--alpha must be from 0 to 1, got {self.alpha}")
        if self.channels not in (1, 3):
            raise UsageError(f"--channels must be 1 or 3, got {self.channels}")
        if self.warmup is not None and not 0 <= self.warmup < 1:
            raise UsageError(
                f"--warmup must be at least 0 and below 1, got {self.warmup}"
            )
        if self.warmup is None and self.epochs <= WARMUP_EPOCHS:
            raise UsageError(
                f"--epochs must be above {WARMUP_EPOCHS}, the epochs of the warm-up, "
                f"got {self.epochs}; or give a share of the steps as --warmup"
            )
        # Not as `Views`, which type checkers would take for always true below.
        views: object = self.views
        # A class has the members of `Views` as well, so `isinstance` accepts it.
        is_class = isinstance(views, type)
        if is_class or not (is_dataclass(views) and isinstance(views, Views)):
            raise UsageError(
                "`views` must be an instance of a dataclass with `pair`, `plain` and "
                f"`size`, see vicreg_jax.augment.Views, got {views!r}"
            )
        if self.batch % self.accumulate:
            raise UsageError(
                f"--batch must be a multiple of --accumulate, {self.accumulate}, got "
                f"{self.batch}"
            )
        _check_encoder(self)

    @property
    def name(self) -> str:
        """Beginning of the name of the run's directory in runs/."""
        return Path(self.data).stem


@dataclass(frozen=True)
class Launch:
    """Where and how a run is carried out.

    Nothing here changes what is computed, except that another mesh rounds differently.

    Raises:
        UsageError: If a setting is out of range, or would be ignored.
    """

    # config.json has none of these, so a run may be resumed with other values.
    out: Path | None = None
    """Directory of the run. None: in runs/, the newest unfinished one or a new one."""
    recipe: Annotated[str | None, tyro.conf.Suppress] = None
    """Name of the recipe, which is printed and stored in run.json."""
    mesh: str | None = None
    """Devices by axis: "data=8", or "data=4,more=2" on pods. None: one axis."""
    workers: int = 0
    """Processes that read and decode images. 0: the main process does it."""
    force_workers: bool = False
    """Allow more --workers than this machine has cores."""
    log_every: int = 10
    """Steps between updates of the progress bar, and writes of metrics.jsonl, which
    has a line for every step."""
    checkpoint_every: int | None = None
    """Steps between checkpoints. None: one epoch, or the fewest that have 300 steps."""
    probe_every: int = 5
    """Epochs between quick checks (k-NN and collapse) or, for a classifier, tests on
    all test images. 0: never."""
    tensorboard: bool = True
    """Also write the metrics for TensorBoard, into the run's directory."""
    profile: str | None = None
    """STEP:COUNT. Trace COUNT steps from STEP for XProf, into profile/ in the run's
    directory."""
    compile_only: str | None = None
    """Compile the step for TPUs such as v5e:8x8 or v5litepod-64, print what it needs,
    and stop."""
    distributed: bool = False
    """This process is one of several of the same run; see docs/pods.md."""
    coordinator: str | None = None
    """Address and port of process 0. None: from the cluster."""
    num_processes: int | None = None
    """Number of processes. None: from the cluster."""
    process_id: int | None = None
    """Number of this process, from 0. None: from the cluster."""
    heartbeat: int = 100
    """Seconds of silence after which a process counts as lost and the others stop."""

    def __post_init__(self):
        """Checks the settings."""
        for name, least in (
            ("workers", 0),
            ("log_every", 1),
            ("probe_every", 0),
            ("heartbeat", 1),
        ):
            check_at_least(name, getattr(self, name), least)
        if self.checkpoint_every is not None:
            check_at_least("checkpoint_every", self.checkpoint_every, 1)
        cores = os.cpu_count() or 1
        if self.workers > cores and not self.force_workers:
            raise UsageError(
                f"--workers must be at most {cores}, the cores of this machine, got "
                f"{self.workers}; --force-workers allows more"
            )
        if self.force_workers and not self.workers:
            raise UsageError(
                "--force-workers must be given with --workers only, got --workers 0"
            )
        # The name of a new run holds the time, so the processes would choose others.
        if self.distributed and self.out is None:
            raise UsageError("--out must be given with --distributed, got none")
        if not self.distributed:
            self._refuse_distributed_flags()
        if self.profile is not None and not _PROFILE.fullmatch(self.profile):
            raise UsageError(
                f"--profile must be STEP:COUNT, such as 100:5, got {self.profile!r}"
            )

    def profiled(self, steps: int) -> range:
        """Returns the steps to trace.

        Args:
            steps: Number of all steps of the run.

        Raises:
            UsageError: If the run has not all of them.
        """
        if self.profile is None:
            return range(0)
        first, count = map(int, self.profile.split(":"))
        if first + count > steps:
            raise UsageError(
                f"--profile must name steps from 0 to {steps - 1}, got {self.profile}"
            )
        return range(first, first + count)

    def _refuse_distributed_flags(self):
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.name in _DISTRIBUTED_ONLY and value != setting.default:
                raise UsageError(
                    f"{flag(setting.name)} must be given with --distributed only, got "
                    f"{value}"
                )


def data_setting(data: str | Path) -> str:
    """Returns `Config.data` for the name of a dataset, or for a path.

    A `Path` becomes absolute, because "mnist" alone would name a dataset.
    """
    return str(data.absolute() if isinstance(data, Path) else data)


def _check_encoder(config: Config) -> None:
    name, size, rate = config.encoder, config.views.size, config.drop_path
    if not 0 <= rate < 1:
        raise UsageError(f"--drop-path must be at least 0 and below 1, got {rate}")
    if rate and not name.startswith(("convnext", "vit")):
        raise UsageError(f"--drop-path must be 0 with --encoder {name}, got {rate}")
    sides = {"--views.size": size}
    if getattr(config.views, "local_views", 0):  # views of a user's may lack both
        sides["--views.local-size"] = getattr(config.views, "local_size", size)
    for setting, side in sides.items():
        # The stem and the stages divide the side by 32 in all.
        if name.startswith("convnext") and side < 32:
            raise UsageError(
                f"{setting} must be at least 32 with --encoder {name}, got {side}"
            )
        if name.startswith("vit") and side % 16:
            raise UsageError(
                f"{setting} must be a multiple of 16 with --encoder {name}, got {side}"
            )
        # The positions of a ViT are learned for one size.
        if name.startswith("vit") and side != size:
            raise UsageError(
                f"{setting} must be --views.size, {size}, with --encoder {name}, got "
                f"{side}"
            )


def _check_finite(name: str, value: float | None, *, positive: bool) -> None:
    if value is None:
        return
    in_range = value > 0 if positive else value >= 0
    if not in_range or not math.isfinite(value):
        bound = "above 0" if positive else "at least 0"
        raise UsageError(f"{flag(name)} must be finite and {bound}, got {value}")
