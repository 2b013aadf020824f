"""The run: pretrain, freeze, probe, and write down what happened."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from vicreg_jax import VICRegLoss
from vicreg_jax.nn import Expander, SmallResNet, VICReg
from vicreg_jax.optim import adamw, warmup_cosine
from vicreg_jax.pretrain import data
from vicreg_jax.pretrain.report import draw
from vicreg_jax.pretrain.step import Metrics, encode, train_step
from vicreg_jax.probe import Labelled, probes

if TYPE_CHECKING:
    from rich.console import Console

    from vicreg_jax.pretrain.config import Config
    from vicreg_jax.probe import Accuracies


def run(config: Config, console: Console) -> Accuracies:
    """Pretrains and probes as `config` says.

    Returns:
        Accuracies, 0 to 1, by features (raw pixels, untrained, VICReg) and by probe.

    Raises:
        ValueError: the batch is larger than the data set.
        FileExistsError: the folder holds a run already.
        FloatingPointError: the loss is no longer finite.
    """
    started = time.monotonic()
    split = data.load(config.data, evaluate_on=config.evaluate_on)
    if config.batch > len(split.train.labels):
        raise ValueError(
            f"`batch` must be at most the number of training images, "
            f"{len(split.train.labels)}, got {config.batch}"
        )
    out = _new_folder(config)
    model = build(config, side=split.train.pixels.shape[1])
    accuracies = {
        name: probes(*_labelled(split, features), seed=config.seed)
        for name, features in {
            "raw pixels": lambda pixels: pixels.reshape(len(pixels), -1),
            "untrained": _encoder(model),
        }.items()
    }
    history = _pretrain(config, model, split.train.pixels, out, console)
    train, held_out = _labelled(split, _encoder(model))
    accuracies["VICReg"] = probes(train, held_out, seed=config.seed)
    (out / "probes.json").write_text(json.dumps(accuracies, indent=2) + "\n")
    draw(out / "report.png", history, accuracies, held_out)
    console.print(f"{time.monotonic() - started:.0f} s in all. Everything is in {out}")
    return accuracies


def build(config: Config, *, side: int) -> VICReg:
    """Returns the untrained network for images of `side` pixels a side."""
    rngs = nnx.Rngs(config.seed)
    widths = [config.width * factor for factor in (1, 2, 4)]
    stem_stride = 2 if side >= 16 else 1
    encoder = SmallResNet(widths, stem_stride=stem_stride, rngs=rngs)
    return VICReg(encoder, Expander(widths[-1], config.expander, rngs=rngs))


def _pretrain(config, model, pixels, out, console) -> list[dict[str, float]]:
    epoch_steps = len(pixels) // config.batch
    steps = config.passes * epoch_steps
    schedule = warmup_cosine(
        config.learning_rate, steps=steps, warmup_steps=round(config.warmup * steps)
    )
    tx = adamw(schedule, weight_decay=config.weight_decay)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    loss = VICRegLoss(config.lambd, config.mu, config.nu)
    rng = np.random.default_rng(config.seed)
    key = jax.random.key(config.seed)
    history = []
    model.train()
    with _progress(console) as bar, (out / "metrics.jsonl").open("w") as log:
        task = bar.add_task("pretraining", total=steps, state="compiling")
        for epoch in range(config.passes):
            for rows in data.batches(rng, len(pixels), config.batch):
                step = len(history)
                metrics = train_step(
                    model,
                    optimizer,
                    loss,
                    pixels[rows],
                    jax.random.fold_in(key, step),
                    views=config.views,
                )
                line = _line(step, epoch, np.asarray(schedule(step)).item(), metrics)
                history.append(line)
                log.write(json.dumps(line) + "\n")
                log.flush()
                bar.update(task, advance=1, state=_state(line))
                _stop_unless_finite(line)
    return history


def _line(step, epoch, learning_rate, metrics: Metrics) -> dict[str, float]:
    terms = {name: float(value) for name, value in metrics.terms._asdict().items()}
    return {
        "step": step,
        "epoch": epoch,
        "learning_rate": learning_rate,
        "loss": float(metrics.loss),
        **terms,
    }


def _state(line):
    return (
        f"loss {line['loss']:.2f} inv {line['invariance']:.3f} "
        f"var {line['variance']:.3f} cov {line['covariance']:.3f}"
    )


def _stop_unless_finite(line):
    if not math.isfinite(line["loss"]):
        raise FloatingPointError(
            f"the loss is no longer finite at step {line['step']}: {_state(line)}; "
            "lower --learning-rate"
        )


def _progress(console):
    return Progress(
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
        console=console,
    )


def _encoder(model):
    """Returns a function from pixels to frozen features."""

    def features(pixels):
        model.eval()
        chunks = np.array_split(pixels, max(1, len(pixels) // 500))
        return np.concatenate(
            [np.asarray(encode(model, jnp.asarray(chunk))) for chunk in chunks]
        )

    return features


def _labelled(split: data.Split, features) -> tuple[Labelled, Labelled]:
    """Returns the features of the training and of the held-out images."""
    train, held_out = (Labelled(features(part.pixels), part.labels) for part in split)
    return train, held_out


def _new_folder(config: Config) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    out = config.out or Path("runs", f"{config.data}-{stamp}")
    if (out / "metrics.jsonl").exists():
        raise FileExistsError(f"`out` must not hold a run already, got {out}")
    out.mkdir(parents=True, exist_ok=True)
    choices = dataclasses.asdict(config) | {"out": str(out), "epochs": config.passes}
    (out / "config.json").write_text(json.dumps(choices, indent=2) + "\n")
    return out
