"""The PyTorch side of the training comparison: expander, steps, and LARS.

LARS follows the algorithm of facebookresearch/vicreg (`main_vicreg.py`), in our own
words: weight decay, then the layer's trust ratio, then momentum, and the learning rate
last, outside the momentum. One-dimensional parameters get neither decay nor trust.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from parity.torch_reference import torch_terms, weighted_sum

WEIGHT_DECAY = 1e-2
MOMENTUM = 0.9
TRUST = 0.001


class Run(NamedTuple):
    """What a training run leaves behind, in PyTorch's names and layout.

    Attributes:
        parameters: by name, float64.
        statistics: running means and variances of the batch norms, float64.
        losses: of each step.
    """

    parameters: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    losses: np.ndarray


def expander(inputs: int, width: int, seed: int) -> torch.nn.Sequential:
    """Returns Linear-BN-ReLU, Linear-BN-ReLU, Linear without bias, in float64."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, width),
        torch.nn.BatchNorm1d(width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, width),
        torch.nn.BatchNorm1d(width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, width, bias=False),
    ).double()


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rates with the learning rate outside the momentum."""

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None) -> Any:
        """Takes a step along the gradients that the parameters hold."""
        for group in self.param_groups:
            for p in group["params"]:
                velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                velocity.mul_(MOMENTUM).add_(self._direction(p))
                p.sub_(group["lr"] * velocity)

    @staticmethod
    def _direction(p):
        if p.ndim < 2:
            return p.grad
        decayed = p.grad + WEIGHT_DECAY * p
        size, step = p.norm(), decayed.norm()
        trusted = TRUST * size / step
        return decayed * torch.where((size > 0) & (step > 0), trusted, 1.0)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr, momentum=MOMENTUM),
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr, weight_decay=WEIGHT_DECAY),
    "lars": LARS,
}


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets PyTorch use one thread: on small products a second one costs time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train(
    model: torch.nn.Module,
    batches: Iterable[np.ndarray],
    optimizer: str,
    rates: np.ndarray,
    dtype: str,
    disturb: Callable[[list], list] = list,
) -> Run:
    """Trains in place and returns what became of it.

    Args:
        model: in train mode; it is called once a view, so that each has its own batch
            statistics.
        batches: of both views each, shape (2, rows, inputs).
        optimizer: a key of `OPTIMIZERS`.
        rates: the learning rate of each step.
        dtype: to run in.
        disturb: changes the gradients, to see what a run makes of errors in them.
    """
    model.to(getattr(torch, dtype))
    with one_thread():
        return _train(model, batches, optimizer, rates, dtype, disturb)


def _train(model, batches, optimizer, rates, dtype, disturb) -> Run:
    steps = OPTIMIZERS[optimizer](list(model.parameters()), lr=1.0)
    losses = []
    for batch, rate in zip(batches, rates, strict=True):
        steps.param_groups[0]["lr"] = float(rate)
        views = torch.tensor(batch).to(getattr(torch, dtype))
        steps.zero_grad()
        loss = weighted_sum(torch_terms(*(model(view) for view in views)))
        loss.backward()
        _set_gradients(model, disturb([p.grad for p in model.parameters()]))
        steps.step()
        losses.append(float(loss.detach()))
    return Run(*_state(model), np.array(losses))


def _set_gradients(model: torch.nn.Module, gradients: list) -> None:
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        p.grad = gradient


def _state(model: torch.nn.Module):
    parameters = {k: v.detach().double().numpy() for k, v in model.named_parameters()}
    statistics = {
        name: value.double().numpy()
        for name, value in model.named_buffers()
        if "running" in name
    }
    return parameters, statistics
