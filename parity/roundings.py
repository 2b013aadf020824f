"""Rounding errors that are put into a PyTorch training run on purpose.

This is Monte Carlo arithmetic (Parker, UCLA CSD-970002, 1997): the result of each
operation is disturbed at random by as much as rounding may change it. The distance
between such runs and an undisturbed one is what rounding can do to a run, including all
that the network, the optimizer and the trajectory make of it.

A sum of k products is off by up to 8 sqrt(k) units of rounding times the root of the
sum of their squares, but with negligible probability (Higham and Mary, SIAM J. Sci.
Comput. 41(5), 2019). Each disturbance is normal with that standard deviation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from parity.oracle import rounding_bounds

# Few draws do: in float64 the standard deviation of each disturbance is itself a bound
# that rounding hardly ever reaches. In `ddp`, limits of eight are at most 3% wider.
DRAWS = 4


class Roundings:
    """Random errors of the size of rounding.

    Args:
        unit: One unit of rounding of the dtype that is imitated. 0 adds no errors.
        seed: Seed of the errors.
    """

    def __init__(self, unit: float, seed: int = 0):
        self.unit = unit
        self._noise = torch.Generator().manual_seed(seed)
        self._rows: dict[nn.Module, int] = {}

    @contextmanager
    def of_layers(self, model: nn.Module) -> Iterator[None]:
        """Adds errors to each layer's results and gradients, inside the context."""
        hooks = []
        for layer in model.modules() if self.unit else ():
            if not isinstance(layer, nn.Linear | nn.Conv2d | _BatchNorm):
                continue
            hooks.append(layer.register_forward_pre_hook(self._before))
            hooks.append(layer.register_forward_hook(self._after))
            hooks += [
                p.register_hook(partial(self._of_gradient, layer))
                for p in layer.parameters(recurse=False)
                if p.requires_grad
            ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def of_loss(self, z1, z2, weights) -> torch.Tensor:
        """Returns an error of the loss, and adds errors to the embeddings' gradients.

        Their sizes are those of `oracle.rounding_bounds`.
        """
        if not self.unit:
            return torch.zeros((), dtype=z1.dtype)
        views = z1.detach().numpy(), z2.detach().numpy()
        bounds = rounding_bounds(*views, self.unit, weights)
        for z, bound in ((z1, bounds.dz1), (z2, bounds.dz2)):
            size = torch.tensor(bound, dtype=z.dtype)
            # `size` is bound here, or both views would get that of the last one.
            z.register_hook(lambda g, size=size: g + size * self._draw(g))
        return bounds.total * self._draw(torch.zeros((), dtype=z1.dtype))

    def of_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Returns logits with the errors of a softmax, which sums over the classes."""
        size = self._sum(logits.shape[1])
        return _Disturbed.apply(logits, self, size, size) if self.unit else logits

    @torch.no_grad()
    def of_storing(self, model: nn.Module) -> None:
        """Rounds each trained parameter once, as storing it after an update does."""
        for p in model.parameters() if self.unit else ():
            if not p.requires_grad:
                continue
            p.mul_(1 + self.unit * self._draw(p))

    def _before(self, layer, inputs):
        """Disturbs the gradient of a layer's input; of a batch norm its moments too."""
        (x,) = inputs
        if not isinstance(layer, _BatchNorm):
            # That gradient sums over the outputs which an entry of the input reaches.
            terms = layer.weight[0].numel() * len(layer.weight) // layer.weight.shape[1]
            return (_Disturbed.apply(x, self, 0.0, self._sum(terms)),)
        size = self._sum(_rows(x))
        scale = _channel_rms(x.detach())
        # Errors that all rows share: those of the channel's mean and variance.
        shift, stretch = (size * self._draw(scale) for _ in range(2))
        x = x + shift * scale + stretch * x.detach()
        return (_Disturbed.apply(x, self, 0.0, size),)

    def _after(self, layer, inputs, output):
        """Disturbs a layer's results."""
        self._rows[layer] = _rows(output)
        norm = isinstance(layer, _BatchNorm)
        terms = _rows(output) if norm else layer.weight[0].numel()
        return _Disturbed.apply(output, self, self._sum(terms), 0.0)

    def _of_gradient(self, layer, gradient):
        """Disturbs the gradient of a parameter, which is a sum over rows."""
        # A hook does not see the products that were summed. As in `disturb`, the RMS of
        # the results stands for the root of the sum of their squares.
        rms = gradient.square().mean().sqrt()
        return gradient + self._sum(self._rows[layer]) * rms * self._draw(gradient)

    def disturb(self, x: torch.Tensor, size: float) -> torch.Tensor:
        """Returns `x` with errors of `size` times the RMS of each channel."""
        return x + size * _channel_rms(x) * self._draw(x) if size else x.clone()

    def _sum(self, terms: int) -> float:
        return 8 * terms**0.5 * self.unit

    def _draw(self, like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=self._noise, dtype=like.dtype)


class _Disturbed(torch.autograd.Function):
    """The identity, with errors in the value and in the gradient that comes back."""

    @staticmethod
    def forward(ctx, x, roundings: Roundings, forward: float, backward: float):
        ctx.roundings, ctx.backward_size = roundings, backward
        return roundings.disturb(x, forward)

    @staticmethod
    def backward(ctx, *gradients):
        disturbed = ctx.roundings.disturb(gradients[0], ctx.backward_size)
        return disturbed, None, None, None


def _rows(x: torch.Tensor) -> int:
    """Returns how many entries each channel has."""
    return x.numel() // x.shape[1]


def _channel_rms(x: torch.Tensor) -> torch.Tensor:
    others = [axis for axis in range(x.ndim) if axis != 1]
    return x.square().mean(others, keepdim=True).sqrt()
