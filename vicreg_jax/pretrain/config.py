"""What a run is, and how it is carried out: every choice that can be made, checked."""

from __future__ import annotations

from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Literal

from vicreg_jax.augment import DigitViews, Views
from vicreg_jax.optim import WARMUP_EPOCHS


@dataclass(frozen=True)
class Config:
    """What a run is: all that decides which parameters it ends with.

    The defaults suit small images in memory; see `recipes`.
    """

    data: str = "mnist"
    """Images: mnist, digits, elpv, or a path; see `input.open_source`."""
    test_data: str | None = None
    """Labelled images to judge on, as for `data`. None: a fifth of `data`."""
    evaluate_on: Literal["test", "validation"] = "test"
    """Judge on the test images, or on a fifth of the training images: tune on these."""
    size: int = 28
    """Side to which image files are decoded; images in memory must have it."""
    channels: int = 1
    """Of the images: 1, grey, or 3."""
    unreadable: Literal["skip", "fatal"] = "skip"
    """What to do about an image that cannot be read."""
    views: Views = field(default_factory=DigitViews)
    """How each image becomes two random views, and their size. The argument
    `views:images` or `views:digits` selects another kind."""
    encoder: Literal["small", "resnet18", "resnet34", "resnet50"] = "small"
    """Network that is kept. small has three stages, of width, twice and four times."""
    width: int = 32
    """Channels of the encoder's stem; ResNets have 64."""
    small_images: bool = False
    """Give a ResNet a stem of stride 1 without pooling."""
    expander: int = 512
    """Width of the expander and of the embeddings."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """To compute in; parameters and statistics are float32."""
    lambd: float = 25.0
    """Weight of the invariance term."""
    mu: float = 25.0
    """Weight of the variance term, the two views summed."""
    nu: float = 1.0
    """Weight of the covariance term, the two views summed."""
    optimizer: Literal["adamw", "lars"] = "adamw"
    """AdamW, or LARS as the paper's code runs it."""
    learning_rate: float | None = 6e-3
    """Peak learning rate. None: the paper's for the batch and the epochs."""
    trust_coefficient: float = 1e-3
    """Of LARS alone: step over size of a layer at a learning rate of 1."""
    clip_trust: bool = False
    """Of LARS alone, and as solo-learn: step over size of a layer does not follow the
    learning rate, which only caps how much of a gradient is taken."""
    weight_decay: float = 1e-4
    """Weight decay of kernels; batch norms and biases have none."""
    warmup: float | None = 0.1
    """Share of the steps in which the learning rate rises. None: 10 epochs."""
    epochs: int = 36
    """Passes over the training images."""
    batch: int = 128
    """Images a step, on all devices together; each gives two views."""
    accumulate: int = 1
    """Parts in which a batch passes the network, one after another, to save memory.

    The loss is still that of the whole batch; batch norms see a part at a time.
    """
    seed: int = 0
    """Draws the parameters, the views, the order, and the labels of the probes."""
    probe_images: int = 5000
    """Most images that the probes at the end learn from, and are judged on."""

    def __post_init__(self):
        """Refuses what could not run."""
        least = {"batch": 2, "seed": 0} | dict.fromkeys(
            ("size", "width", "expander", "epochs", "accumulate", "probe_images"), 1
        )
        for name, smallest in least.items():
            _at_least(name, getattr(self, name), smallest)
        if not self.trust_coefficient > 0:
            raise ValueError(
                f"`trust_coefficient` must be above 0, got {self.trust_coefficient}"
            )
        if self.channels not in (1, 3):
            raise ValueError(f"`channels` must be 1 or 3, got {self.channels}")
        if self.warmup is not None and not 0 <= self.warmup < 1:
            raise ValueError(
                f"`warmup` must be at least 0 and below 1, got {self.warmup}"
            )
        if self.warmup is None and self.epochs <= WARMUP_EPOCHS:
            raise ValueError(
                f"`epochs` must be above {WARMUP_EPOCHS}, those of the warm-up, got "
                f"{self.epochs}; or give `warmup` as a share"
            )
        views: object = self.views
        is_class = isinstance(views, type)
        if is_class or not (is_dataclass(views) and isinstance(views, Views)):
            raise ValueError(
                "`views` must be an instance of a dataclass with `pair`, `plain` and "
                f"`size`, see vicreg_jax.augment.Views, got {views!r}"
            )
        if self.batch % self.accumulate:
            raise ValueError(
                f"`batch` must be a multiple of `accumulate`, {self.accumulate}, "
                f"got {self.batch}"
            )


@dataclass(frozen=True)
class Launch:
    """How a run is carried out: where, on what, and how often it reports.

    None of it changes what is computed; another mesh changes the rounding.
    """

    out: Path | None = None
    """Folder of the run. None: the newest unfinished one of the same configuration
    under runs/, or a new one there."""
    mesh: str | None = None
    """Devices by axis: "data=8", or "data=4,more=2" for pods, where the loss exchanges
    less along two axes. All axes hold rows. None: all devices along one."""
    workers: int = 0
    """Processes that read and decode images; 0: the main one."""
    log_every: int = 10
    """Steps between looks at the metrics, all of which are written down."""
    checkpoint_every: int | None = None
    """Steps between checkpoints. None: an epoch's, or as many epochs' as have 300."""
    probe_every: int = 5
    """Epochs between quick looks at the features and at signs of collapse; 0: none."""
    tensorboard: bool = True
    """Write metrics for TensorBoard as well, into the run's folder."""
    compile_only: str | None = None
    """Compile the step for TPUs such as v5e:8x8, none of which has to be here, say
    what it needs, and stop."""
    distributed: bool = False
    """This is one of several processes of one run; see docs/pods.md."""
    coordinator: str | None = None
    """Address and port of process 0. None: found out from the cluster."""
    num_processes: int | None = None
    """How many processes there are. None: found out from the cluster."""
    process_id: int | None = None
    """Which of them this is. None: found out from the cluster."""
    heartbeat: int = 100
    """Seconds after which a silent process counts as lost, which ends the others."""

    def __post_init__(self):
        """Refuses what could not run."""
        _at_least("workers", self.workers, 0)
        _at_least("log_every", self.log_every, 1)
        _at_least("probe_every", self.probe_every, 0)
        _at_least("heartbeat", self.heartbeat, 1)
        if self.checkpoint_every is not None:
            _at_least("checkpoint_every", self.checkpoint_every, 1)
        if self.distributed and self.out is None:
            raise ValueError("`out` must be given where the run is `distributed`")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}, got {value}")
