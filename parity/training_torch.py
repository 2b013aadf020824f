"""The PyTorch side of the training comparison: LARS, and training steps.

LARS follows the algorithm of facebookresearch/vicreg (`main_vicreg.py`), in our own
words: weight decay, then the layer's trust ratio, then momentum, and the learning rate
last, outside the momentum. One-dimensional parameters get neither decay nor trust.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from parity.oracle import WEIGHTS
from parity.roundings import Roundings
from parity.torch_reference import torch_terms, weighted_sum

WEIGHT_DECAY = 1e-2
MOMENTUM = 0.9
TRUST = 0.001


class Run(NamedTuple):
    """The result of a training run, in PyTorch's names and layout.

    Attributes:
        parameters: Parameters by name, float64.
        statistics: Running means and variances of the batch norms, float64.
        losses: Loss at each step.
    """

    parameters: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    losses: np.ndarray

    def named(self) -> dict[str, np.ndarray]:
        """Returns everything that is compared, by name."""
        return self.parameters | self.statistics | {"losses": self.losses}


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rates with the learning rate outside the momentum."""

    def __init__(self, params: Sequence[torch.nn.Parameter], lr: float):
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
        # The norm is that of gradient and decay together. The ratio falls back to 1
        # where either norm is zero.
        decayed = p.grad + WEIGHT_DECAY * p
        size, step = p.norm(), decayed.norm()
        trusted = TRUST * size / step
        return decayed * torch.where((size > 0) & (step > 0), trusted, 1.0)


def adamw(params: Sequence[torch.nn.Parameter], lr: float) -> torch.optim.AdamW:
    """Returns AdamW that decays parameters of two and more dimensions alone."""
    matrices = [p for p in params if p.ndim > 1]
    vectors = [p for p in params if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]
    # The betas and the epsilon are PyTorch's defaults, which Optax shares.
    return torch.optim.AdamW(groups, lr)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr, momentum=MOMENTUM),
    "adamw": adamw,
    "lars": LARS,
}


def schedule(peak: float, steps: int, warmup_steps: int) -> np.ndarray:
    """Returns the official learning rates: linear from 0, then half a cosine.

    The cosine would end at a thousandth of the peak one step after the last one.
    """
    rates = []
    for step in range(steps):
        share = (step - warmup_steps) / (steps - warmup_steps)
        high = (1 + math.cos(math.pi * share)) / 2
        falling = peak * high + 0.001 * peak * (1 - high)
        rates.append(peak * step / warmup_steps if share < 0 else falling)
    return np.array(rates)


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
    batches: np.ndarray,
    optimizer: str,
    rates: np.ndarray,
    dtype: str,
    *,
    weights: tuple[float, float, float] = WEIGHTS,
    roundings: Roundings | None = None,
    before_step: Callable[[torch.nn.Module], None] | None = None,
    before_relu: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
) -> Run:
    """Trains a network in place.

    Args:
        model: Module in train mode. It is called once for each view, so that each view
            has its own batch statistics.
        batches: Views of shape (steps, 2, rows, ...).
        optimizer: A key of `OPTIMIZERS`.
        rates: The learning rate of each step.
        dtype: To run in.
        weights: Weights of invariance, variance and covariance.
        roundings: Errors to add to each operation.
        before_step: Called with the model before each update, when it has gradients.
        before_relu: Called with the input of each `nn.ReLU`, returns it or another one.

    Returns:
        Parameters and statistics after the last step, and all losses.
    """
    model.to(getattr(torch, dtype))
    roundings = roundings or Roundings(0.0)
    with one_thread(), roundings.of_layers(model), _relus(model, before_relu):
        # The rates are given step by step, as PyTorch takes ours in float32.
        steps = OPTIMIZERS[optimizer](list(model.parameters()), lr=1.0)
        losses = []
        for batch, rate in zip(batches, rates, strict=True):
            for group in steps.param_groups:
                group["lr"] = float(rate)
            views = torch.tensor(batch).to(getattr(torch, dtype))
            z1, z2 = (model(view) for view in views)
            steps.zero_grad()
            loss = weighted_sum(torch_terms(z1, z2), weights)
            # This must precede `backward`, as it also hooks the embeddings' gradients.
            loss = loss + roundings.of_loss(z1, z2, weights)
            loss.backward()
            if before_step:
                before_step(model)
            steps.step()
            roundings.of_storing(model)
            losses.append(float(loss.detach()))
    return Run(parameters(model), statistics(model), np.array(losses))


@contextmanager
def _relus(model: torch.nn.Module, before: Callable) -> Iterator[None]:
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: (before(*inputs),))
        for layer in model.modules()
        # The blocks of a ResNet call `torch.relu_`, which no hook sees. Float32 runs of
        # ResNets start away from kinks instead; see `torch_networks.away_from_kinks`.
        if isinstance(layer, torch.nn.ReLU)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def reordered(model: torch.nn.Module, order: np.random.Generator) -> torch.nn.Module:
    """Returns a copy of a network whose layers sum their channels in another order."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            channels = torch.tensor(order.permutation(layer.weight.shape[1]))
            # `Module.__call__` finds `forward` on the instance first, and still runs
            # all hooks.
            vars(layer)["forward"] = partial(_with_channels, layer, channels)
    return model


def _with_channels(layer, channels, x):
    # Permuted in each call, so that the parameter and its gradient keep their order.
    x, weight = x[:, channels], layer.weight[:, channels]
    if isinstance(layer, torch.nn.Linear):
        return torch.nn.functional.linear(x, weight, layer.bias)
    return torch.nn.functional.conv2d(x, weight, None, layer.stride, layer.padding)


def parameters(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Returns copies of a network's parameters, in float64."""
    return {k: _array(v) for k, v in model.named_parameters()}


def gradients(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Returns copies of the gradients of a network's parameters, in float64."""
    return {k: _array(v.grad) for k, v in model.named_parameters()}


def statistics(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Returns copies of a network's running means and variances, in float64."""
    return {k: _array(v) for k, v in model.named_buffers() if "running" in k}


def embeddings(model: torch.nn.Module, views: np.ndarray) -> list[np.ndarray]:
    """Returns the embeddings of both views, without a change to the network."""
    # A forward pass in train mode moves the running statistics.
    model = copy.deepcopy(model)
    with torch.no_grad(), one_thread():
        return [model(torch.tensor(view)).numpy() for view in views]


def rows_of_norms(model: torch.nn.Module, view: np.ndarray) -> dict[str, int]:
    """Returns how many entries of each channel the batch norms see, by their names."""
    model, found = copy.deepcopy(model), {}

    def hook(layer, inputs, output):
        found[layer] = output.numel() // output.shape[1]

    norms = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm)}
    for layer in norms.values():
        layer.register_forward_hook(hook)
    with torch.no_grad():
        model(torch.tensor(view))
    return {name: found[layer] for name, layer in norms.items()}


def _array(tensor) -> np.ndarray:
    return tensor.detach().double().numpy().copy()
