"""The PyTorch side of the classifiers: the official evaluation, in our own words.

It follows facebookresearch/vicreg (`evaluate.py`): SGD with momentum on the
cross-entropy of one view, and a cosine to 0 that is updated once an epoch. The linear
protocol keeps the backbone fixed and in eval mode. Fine-tuning trains it, in train mode
and at a rate of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from parity.roundings import Roundings
from parity.training_torch import (
    MOMENTUM,
    Run,
    one_thread,
    parameters,
    statistics,
)


@dataclass(frozen=True)
class Protocol:
    """The settings of a protocol.

    Attributes:
        name: "linear" or "finetune".
        head: Learning rate of the head.
        backbone: Learning rate of the backbone, if it is trained.
        weight_decay: Weight decay of all parameters that are trained.
    """

    name: str
    head: float
    backbone: float
    weight_decay: float

    @property
    def finetunes(self) -> bool:
        """Whether the backbone is trained."""
        return self.name == "finetune"


def classifier(backbone: nn.Module, features: int, classes: int) -> nn.Sequential:
    """Returns a backbone with a linear head, whose bias is not zero."""
    parts = {"backbone": backbone, "head": nn.Linear(features, classes)}
    return nn.Sequential(OrderedDict(parts))


def train(
    model: nn.Sequential,
    batches: list[tuple[np.ndarray, np.ndarray]],
    protocol: Protocol,
    *,
    epochs: int,
    roundings: Roundings | None = None,
) -> Run:
    """Trains a classifier in place.

    Args:
        model: As `classifier` returns it, in float64.
        batches: Images and labels of each step.
        protocol: Its settings.
        epochs: Into which the steps are divided.
        roundings: Errors to add to each operation.
    """
    roundings, losses = roundings or Roundings(0.0), []
    backbone, head = model.get_submodule("backbone"), model.get_submodule("head")
    # Without gradients, `Roundings` does not disturb the frozen parameters either.
    backbone.train(protocol.finetunes).requires_grad_(protocol.finetunes)
    groups = [{"params": list(head.parameters()), "lr": protocol.head}]
    if protocol.finetunes:
        groups.append({"params": list(backbone.parameters()), "lr": protocol.backbone})
    # As in `evaluate.py`: the groups have the rates, and the decay covers the bias too.
    sgd = torch.optim.SGD(
        groups, lr=0.0, momentum=MOMENTUM, weight_decay=protocol.weight_decay
    )
    # PyTorch updates each rate from the one before. Ours is the closed formula.
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, epochs)
    with one_thread(), roundings.of_layers(model):
        for step, (images, labels) in enumerate(batches, 1):
            logits = roundings.of_logits(model(torch.tensor(images)))
            loss = nn.functional.cross_entropy(logits, torch.tensor(labels))
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            roundings.of_storing(model)
            losses.append(float(loss.detach()))
            if step % (len(batches) // epochs) == 0:
                cosine.step()
    return Run(parameters(model), statistics(model), np.array(losses))
