"""The contenders in PyTorch: reference, released packages and bare products."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext

import torch

from benchmarks.place import NotAvailable
from benchmarks.sizes import WEIGHTS, Problem
from benchmarks.timing import Call
from parity import upstream
from parity.torch_reference import torch_terms, weighted_sum
from vicreg_jax import conventions


def reference(z1, z2):
    """Returns the loss by Algorithm 1 of the paper, from the parity suite."""
    return weighted_sum(torch_terms(z1, z2), WEIGHTS)


def raised(z1, z2):
    """Returns the reference on float32 copies of the views, as accurate as ours."""
    return reference(z1.float(), z2.float())


def compiled(z1, z2):
    """Stands for `torch.compile` of the reference, which replaces it."""
    raise NotImplementedError


def released(name: str) -> Callable:
    """Returns the loss of an installed package, with weights that give our value.

    Raises:
        NotAvailable: It is not installed, or another release is installed.
    """
    # Our weights for their weights of 1.
    one = getattr(conventions, name)(1.0, 1.0, 1.0)
    shares = (one.lambd, one.mu, one.nu)
    weights = [ours / share for ours, share in zip(WEIGHTS, shares, strict=True)]
    try:
        return upstream.load(name)(*weights, 1.0)
    except upstream.NotLoaded as reason:
        raise NotAvailable(str(reason)) from None


def build_loss(loss: Callable, problem: Problem, device: str) -> Call:
    """Returns a call for value and gradient. It returns the value.

    Raises:
        NotAvailable: `torch.compile` does not work here.
    """
    views = [z.requires_grad_() for z in _tensors(problem, device)]
    made = loss is compiled
    if made:
        loss = _compile()
    # The reference creates a mask, which must be on the device of the views.
    mask_there = nullcontext() if device == "cpu" else torch.device(device)

    def call():
        with mask_there:
            value = loss(*views)
            gradients = torch.autograd.grad(value, views)
        _finish(device)
        del gradients
        return value.detach()

    if made:
        try:
            call()
        except RuntimeError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise NotAvailable(f"failed: {lines[0][:120]}") from None
    return call


def build_products(problem: Problem, device: str) -> Call:
    """Returns a call that computes the bare products in float32."""
    views = _tensors(problem._replace(dtype="float32"), device)

    @torch.no_grad()
    def call():
        held = []
        for z in views:
            held.append((z @ z.T) @ z if problem.size.uses_gram else z @ (z.T @ z))
        _finish(device)

    return call


def _compile() -> Callable:
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise NotAvailable("no C++ compiler")
    # Otherwise the second size is compiled for all sizes, which is slower.
    torch.compiler.reset()
    return torch.compile(reference, dynamic=False)


def _tensors(problem: Problem, device: str) -> list[torch.Tensor]:
    dtype = getattr(torch, problem.dtype)
    return [torch.from_numpy(z).to(device, dtype) for z in problem.views()]


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
