"""What a run is: every choice that can be made, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vicreg_jax.augment import DigitViews

EPOCHS = {"mnist": 36, "digits": 15}


@dataclass(frozen=True)
class Config:
    """Pretrains a small ResNet with VICReg, then probes what it learned.

    With no argument: 5,000 images of MNIST, a fifth of them held out, under five
    minutes on two cores. The run's folder gets config.json, metrics.jsonl (a line a
    step), probes.json and report.png.
    """

    data: Literal["mnist", "digits"] = "mnist"
    """Images: 5,000 of MNIST, 28x28, or scikit-learn's 1,797 digits, 8x8."""
    epochs: int | None = None
    """Passes over the training images. None: 36 of mnist, 15 of digits."""
    batch: int = 128
    """Images a step; each gives two views."""
    width: int = 32
    """Channels of the encoder's stem; its features are 4 times as wide."""
    expander: int = 512
    """Width of the expander and of the embeddings."""
    lambd: float = 25.0
    """Weight of the invariance term."""
    mu: float = 25.0
    """Weight of the variance term, the two views summed."""
    nu: float = 1.0
    """Weight of the covariance term, the two views summed."""
    learning_rate: float = 6e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises, 0 to 1."""
    seed: int = 0
    """Draws the parameters, the views, the order, and the labels of the probes."""
    evaluate_on: Literal["test", "validation"] = "test"
    """Judge on the test images, or on a fifth of the training images: tune on these."""
    out: Path | None = None
    """Folder for the results. None: a new one under runs/."""
    views: DigitViews = field(default_factory=DigitViews)
    """How strongly each view is distorted."""

    def __post_init__(self):
        """Refuses what could not run."""
        at_least = {"batch": 2, "width": 1, "expander": 1, "epochs": 1, "seed": 0}
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}")
        if not 0 <= self.warmup < 1:
            raise ValueError(
                f"`warmup` must be at least 0 and below 1, got {self.warmup}"
            )

    @property
    def passes(self) -> int:
        """Epochs, the default of the data set filled in."""
        return EPOCHS[self.data] if self.epochs is None else self.epochs
