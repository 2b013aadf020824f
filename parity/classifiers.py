"""Section "classifiers": the official evaluation protocols, step by step.

Both frameworks start from the same weights and see the same images. Ours runs the
programs that ship, `vicreg_jax.pretrain.classifier.Classifier`. After ten steps in five
epochs the head, the backbone with its running statistics, and the losses are compared,
in float64. The limits are those of `training`: the largest distance that PyTorch's own
run moves when rounding errors are added to each of its operations.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache, cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from parity import torch_networks, training_jax, training_torch
from parity.cases import Level
from parity.checks import Check, Task
from parity.classifiers_torch import Protocol, classifier, train
from parity.comparison import Arrays, Reference, compared, largest_distances
from parity.ours import Ours, enabled
from parity.roundings import DRAWS, Roundings
from parity.values import UNITS
from vicreg_jax import convert
from vicreg_jax.nn import ResNet
from vicreg_jax.pretrain.classifier_config import (
    FEW_LABELS,
    LINEAR_DECAY,
    LINEAR_LR,
    MORE_LABELS,
    ClassifierConfig,
)
from vicreg_jax.pretrain.mesh import make_mesh

STEPS, EPOCHS = 10, 5
_DEPTH, _WIDTH, _ROWS, _SIDE, _CLASSES = 18, 8, 16, 24, 10
_PADDING = 5  # rows of the last batch of an epoch, of the linear protocol
# Both sides take the job's own rates; `tests/test_classifiers.py` compares those with
# the official ones.
PROTOCOLS = {
    "linear": Protocol("linear", LINEAR_LR, 0.0, LINEAR_DECAY),
    "finetune-1%": Protocol("finetune", *FEW_LABELS, 0.0),
    "finetune-10%": Protocol("finetune", *MORE_LABELS, 0.0),
}


def tasks(level: Level, ours: Ours, platform: str = "cpu") -> Iterator[Task]:
    """Yields the tasks of the section."""
    for name in PROTOCOLS:
        yield Task(f"classifiers/{name}", partial(check, name, ours))


def check(name: str, ours: Ours) -> list[Check]:
    """Returns the verdict on everything that a protocol leaves behind."""
    experiment = Experiment(PROTOCOLS[name])
    task = f"classifiers/{name}"
    return compared(task, experiment.ours(ours), experiment.reference, "float64")


class Experiment:
    """One run of a protocol, on both sides.

    Args:
        protocol: Its settings.
    """

    def __init__(self, protocol: Protocol):
        self.protocol = protocol
        draw = np.random.default_rng(0)
        views = draw.standard_normal((STEPS, _ROWS, 3, _SIDE, _SIDE))
        self._images = views.astype(np.float32).astype(np.float64)
        self._labels = draw.integers(0, _CLASSES, (STEPS, _ROWS)).astype(np.int32)
        self._where = np.ones((STEPS, _ROWS), bool)
        # The job pads the last batch of a linear classifier. In fine-tuning it drops
        # that batch, as padding would enter the statistics of the batch norms.
        if not protocol.finetunes:
            self._where[STEPS // EPOCHS - 1 :: STEPS // EPOCHS, -_PADDING:] = False
        backbone = torch_networks.resnet(_DEPTH, _WIDTH)
        features = torch_networks.features(_DEPTH, _WIDTH)
        model = classifier(backbone, features, _CLASSES)
        torch_networks.randomized(model)
        self._model = model.double()

    @cached_property
    def reference(self) -> Reference:
        """PyTorch's run, and the limits of the distance of ours."""
        base = self._theirs()
        unit = UNITS["float64"]
        runs = [self._theirs(Roundings(unit, seed)) for seed in range(DRAWS)]
        return Reference(base, base, largest_distances(base, runs))

    def _theirs(self, roundings: Roundings | None = None) -> Arrays:
        batches = [
            # `cross_entropy` knows no mask, so it gets the valid rows alone, and their
            # labels in int64.
            (images[where], labels[where].astype(np.int64))
            for images, labels, where in self._batches()
        ]
        model = copy.deepcopy(self._model)
        run = train(model, batches, self.protocol, epochs=EPOCHS, roundings=roundings)
        return run.named()

    def ours(self, ours: Ours) -> Arrays:
        """Returns what our run leaves behind, by PyTorch's names."""
        with enabled("float64"):
            programs = self._programs(ours)
            state, losses = programs.start(), []
            for images, labels, where in self._batches():
                # Axis 1 of `GivenViews` counts the views of an image: here one.
                images = jnp.asarray(np.moveaxis(images, 1, -1)[:, None])
                aspect = jnp.ones(len(images))
                state, metrics = programs.train(state, images, aspect, labels, where)
                losses.append(float(metrics.loss))
            model = nnx.merge(
                nnx.graphdef(programs.model), state.params["encoder"], state.stats
            )
            found = convert.state_dict(model)
            # Our kernels have an axis of heads, and PyTorch's weights have the outputs
            # first.
            head = jax.tree.map(np.asarray, state.params["heads"])
        named = {f"backbone.{k}": np.asarray(v, float) for k, v in found.items()}
        named |= {"head.weight": head["kernel"][0].T, "head.bias": head["bias"][0]}
        return self._unbiased(named) | {"losses": np.array(losses)}

    def _batches(self):
        return zip(self._images, self._labels, self._where, strict=True)

    def _programs(self, ours: Ours) -> Any:
        config = ClassifierConfig(
            init="PyTorch's weights",
            protocol="finetune" if self.protocol.finetunes else "linear",
            lr=(self.protocol.head,),
            lr_backbone=self.protocol.backbone,
            weight_decay=self.protocol.weight_decay,
            epochs=EPOCHS,
            batch=_ROWS,
            classes=_CLASSES,
            views=training_jax.GivenViews(),
            augmentation="none",
        )
        weight, bias = (
            v.detach().numpy() for v in self._model.get_submodule("head").parameters()
        )
        head = {"kernel": jnp.asarray(weight.T[None]), "bias": jnp.asarray(bias[None])}
        # A subclass of what is tested, so that a fault starts from PyTorch's head too.
        given = type("Given", (ours.classifier,), {"_heads": lambda self: head})
        mesh = make_mesh("data=1")
        return given(config, mesh, STEPS // EPOCHS, model=self._encoder())

    def _encoder(self) -> nnx.Module:
        model = nnx.clone(_shapes())
        convert.load_state_dict(model, self._backbone)
        graph, state = nnx.split(model)
        # `load_state_dict` keeps the float32 of the variables. Nothing is lost, as
        # `randomized` draws float32 numbers.
        return nnx.merge(graph, jax.tree.map(lambda x: x.astype(float), state))

    @property
    def _backbone(self) -> Arrays:
        backbone = self._model.get_submodule("backbone")
        return {k: v.numpy() for k, v in backbone.state_dict().items()}

    def _unbiased(self, named: Arrays) -> Arrays:
        """Returns our arrays with PyTorch's unbiased running variances."""
        # A frozen backbone keeps the variances that it was given.
        if not self.protocol.finetunes:
            return named
        start = {f"backbone.{k}": v for k, v in self._backbone.items()}
        model = copy.deepcopy(self._model).train()
        rows = training_torch.rows_of_norms(model, self._images[0])
        return training_jax.unbiased(named, start, STEPS, rows)


@cache
def _shapes() -> nnx.Module:
    """Returns our encoder without values."""
    return nnx.eval_shape(lambda: ResNet(_DEPTH, width=_WIDTH, rngs=nnx.Rngs(0)))
