"""The settings of a classifier on a pretrained encoder: linear, or fine-tuned.

The defaults are those of facebookresearch/vicreg's evaluation on ImageNet
(arXiv:2105.04906, section 4 and appendix C).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from vicreg_jax.pretrain.config import Config
from vicreg_jax.pretrain.errors import UsageError, check_at_least, flag
from vicreg_jax.pretrain.input.labels import ALL

if TYPE_CHECKING:
    from vicreg_jax.augment.crops import Cropping

LINEAR_LR = 0.02
LINEAR_DECAY = 1e-6
# Learning rates of the head and of the encoder, for 1% and for 10% of the labels.
FEW_LABELS, MORE_LABELS = (0.08, 0.03), (0.1, 0.01)
_FEW = 0.03  # share of the labels, between 1% and 10%

# The fields of `Config` that a classifier uses. config.json leaves out all others, so a
# field that classifiers begin to use must be added here.
_USED = {"data", "test_data", "evaluate_on", "size", "channels", "unreadable", "views"}
_USED |= {"crop", "init", "weight_decay", "epochs", "batch", "seed"}


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(Config):
    """All settings that decide a classifier, on the encoder that `init` names.

    The other settings of pretraining, in `UNUSED`, are neither used nor stored.

    Raises:
        UsageError: If a setting is out of range, or two do not fit together.
    """

    UNUSED: ClassVar[tuple[str, ...]] = tuple(
        item.name for item in fields(Config) if item.name not in _USED
    )

    protocol: Literal["linear", "finetune"]
    """A linear classifier on the frozen encoder, or both trained together."""
    init_step: int | None = None
    """Step of the run that `init` names. None: unknown, of a file."""
    init_weights: str = ""
    """Checksum of the encoder's weights, so that a resumed classifier keeps them."""
    lr: tuple[float, ...] = ()
    """Learning rates of the heads, which are trained side by side."""
    lr_backbone: float = 0.0
    """Learning rate of the encoder, if it is trained."""
    augmentation: Literal["crops", "pretraining", "none"] = "crops"
    """Views to train on: the crops and flips of `views`, all of `views`, or none."""
    labels: str = ALL
    """Labels to train on: a share of each class such as 1%, or a list of files."""
    classes: int = 0
    """Number of classes. 0: counted."""

    def __post_init__(self):
        """Checks the settings."""
        super().__post_init__()
        if self.init is None:
            raise UsageError("--init must be given if no RUN is, got neither")
        check_at_least("classes", self.classes, 0)
        # A frozen encoder has no rate to check.
        backbone = [("lr_backbone", self.lr_backbone)] * self.finetunes
        for name, rate in (*(("lr", rate) for rate in self.lr), *backbone):
            if not (rate >= 0 and math.isfinite(rate)):
                raise UsageError(
                    f"{flag(name)} must be finite and at least 0, got {rate}"
                )
        # The results are named by the rate of their head, in six digits.
        if len({f"{rate:g}" for rate in self.lr}) < len(self.lr):
            raise UsageError(
                "--lr must be rates that differ in their first six digits, got "
                f"{self.lr}"
            )

    @property
    def finetunes(self) -> bool:
        """Whether the encoder is trained too."""
        return self.protocol == "finetune"

    @property
    def crops(self) -> tuple[Cropping, ...]:
        """What the host cuts from image files for the one view of a step."""
        if self.augmentation == "none":
            return self.plain_crops
        # The first item has the global views. A second one has local views.
        return tuple(replace(crop, count=1) for crop in super().crops[:1])

    @property
    def name(self) -> str:
        """Beginning of the name of the run's directory in runs/."""
        return f"{self.protocol}-{super().name}"

    def resolved(self, *, classes: int, share: float) -> ClassifierConfig:
        """Returns the settings with those filled in that depend on the images.

        `share` is that of the training images whose labels are used.
        """
        settings = replace(self, classes=self.classes or classes)
        if self.lr:
            return settings
        head, backbone = FEW_LABELS if share < _FEW else MORE_LABELS
        if not self.finetunes:
            head, backbone = LINEAR_LR, 0.0
        return replace(settings, lr=(head,), lr_backbone=backbone)
