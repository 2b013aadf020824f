"""Sections "training" and "pretraining": the runs that are compared.

`training` trains the expander alone for 20 steps, with SGD, AdamW and LARS.
`pretraining` is the step of facebookresearch/vicreg as a whole, for 10 steps: a ResNet
with its expander, two views, the official weights of the terms, and LARS with its masks
under a warm-up and a cosine. `training` says how runs are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from flax import nnx

from parity import torch_networks, training_torch
from parity.cases import Level
from parity.checks import Check, Task
from parity.oracle import WEIGHTS
from parity.ours import Ours
from parity.training import Experiment
from vicreg_jax import conventions
from vicreg_jax.nn import Expander
from vicreg_jax.pretrain.config import Config
from vicreg_jax.pretrain.network import build

# The first step of each run has a learning rate of 0.
STEPS, PRETRAINING_STEPS = 21, 11
_PEAKS = {"sgd": 1e-2, "adamw": 3e-3, "lars": 1.0}
# The official code averages the hinge over the two views, and adds the covariances.
_OFFICIAL_WEIGHTS = (25.0, 25.0 / 2, 1.0)
# Per 256 images: the paper's for 100 epochs and batches of at most 128.
_BASE_LR = 0.8
# The float32 run of ResNet-18 from these weights stays 9e-6 away from every tie in its
# max-pooling and 4e-3 away from the kink of every ReLU.
_SEED = 13
# Rows, inputs and width: fewer than half as many rows as columns, and more.
_EXPANDERS: dict[Level, tuple[tuple[int, int, int], ...]] = {
    Level.QUICK: ((24, 16, 64),),
    Level.STANDARD: ((48, 16, 32),),
    Level.FULL: ((128, 64, 512), (512, 64, 128)),
}
# Depth, channels of the stem, rows, side of the images, and width of the expander.
_RESNETS: dict[Level, tuple[tuple[int, int, int, int, int], ...]] = {
    Level.QUICK: ((18, 8, 16, 24, 64),),
    Level.FULL: ((50, 32, 16, 24, 128),),
}


def training_tasks(level: Level, ours: Ours, platform: str = "cpu") -> Iterator[Task]:
    """Yields the tasks of the section "training"."""
    for size in _up_to(level, _EXPANDERS):
        for optimizer in training_torch.OPTIMIZERS:
            for dtype in ("float64", "float32"):
                make = partial(expander, *size, optimizer, dtype)
                name = _expander_name(size[0], size[2], optimizer, dtype)
                yield Task(name, partial(_run, make, ours))


def pretraining_tasks(
    level: Level, ours: Ours, platform: str = "cpu"
) -> Iterator[Task]:
    """Yields the tasks of the section "pretraining"."""
    for size in _up_to(level, _RESNETS):
        for dtype in ("float64", "float32"):
            make = partial(resnet, *size, dtype)
            name = _resnet_name(size[0], size[2], size[4], dtype)
            yield Task(name, partial(_run, make, ours))


def _up_to(level: Level, sizes: dict[Level, Any]) -> list[Any]:
    return [size for at in sizes if at <= level for size in sizes[at]]


def _run(make: Callable[[], Experiment], ours: Ours) -> list[Check]:
    return list(make().checks(ours))


def _expander_name(rows, width, optimizer, dtype) -> str:
    return f"training/{optimizer}-{rows}x{width}-{dtype}"


def _resnet_name(depth, rows, embedding, dtype) -> str:
    return f"pretraining/resnet{depth}-{rows}x{embedding}-{dtype}"


def expander(
    rows: int, inputs: int, width: int, optimizer: str, dtype: str
) -> Experiment:
    """Returns the training of an expander alone."""
    torch.manual_seed(rows)
    return Experiment(
        name=_expander_name(rows, width, optimizer, dtype),
        model=torch_networks.expander(inputs, width).double(),
        untrained=lambda: Expander(inputs, width, rngs=nnx.Rngs(0)),
        batches=draw_batches(rows, inputs, STEPS),
        optimizer=optimizer,
        peak=_PEAKS[optimizer],
        warmup=0.25,
        weights=WEIGHTS,
        our_weights=WEIGHTS,
        dtype=dtype,
        gradients=dtype == "float32" and optimizer != "sgd",
    )


def resnet(
    depth: int, width: int, rows: int, side: int, embedding: int, dtype: str
) -> Experiment:
    """Returns the official pretraining of a ResNet and its expander."""
    ours = conventions.official()
    model = torch_networks.vicreg(depth, width, embedding)
    torch_networks.randomized(model, seed=_SEED)
    if dtype == "float32":
        # A ReLU that a rounding error switches is a jump that no limit could follow.
        torch_networks.away_from_kinks(model)
    encoder: Any = f"resnet{depth}"
    settings = Config(encoder=encoder, width=width, channels=3, expander=embedding)
    return Experiment(
        name=_resnet_name(depth, rows, embedding, dtype),
        model=model.double(),
        untrained=lambda: build(settings),
        batches=draw_images(rows, side, PRETRAINING_STEPS),
        optimizer="lars",
        peak=_BASE_LR * rows / 256,
        warmup=0.3,
        weights=_OFFICIAL_WEIGHTS,
        our_weights=(ours.lambd, ours.mu, ours.nu),
        dtype=dtype,
    )


def draw_batches(rows: int, inputs: int, steps: int) -> np.ndarray:
    """Returns batches of both views, shape (steps, 2, rows, inputs).

    Columns are scaled and shifted, so that the first batch norm has work to do. All
    values are float32 numbers.
    """
    rng = np.random.default_rng([rows, inputs])
    shared = rng.standard_normal((steps, 1, rows, inputs))
    views = shared + 0.3 * rng.standard_normal((steps, 2, rows, inputs))
    return _as_float32(views * rng.uniform(0.5, 2, inputs) + 0.1)


def draw_images(rows: int, side: int, steps: int) -> np.ndarray:
    """Returns images of both views, shape (steps, 2, rows, 3, side, side).

    Both views of an image share large patches of color and have noise of their own. All
    values are float32 numbers.
    """
    rng = np.random.default_rng([rows, side])
    patches = rng.standard_normal((steps, 1, rows, 3, 4, 4))
    shared = np.kron(patches, np.ones((side // 4, side // 4)))
    own = rng.standard_normal((steps, 2, rows, 3, side, side))
    return _as_float32(0.7 * shared + own)


def _as_float32(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32).astype(np.float64)
