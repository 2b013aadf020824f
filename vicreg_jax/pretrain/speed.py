"""How fast a run is: images and floating-point operations per second."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import AxisType

if TYPE_CHECKING:
    from jax.stages import Compiled

    from vicreg_jax.pretrain.step import Programs

# Peak of one JAX device in TFLOP/s, in bfloat16 and without sparsity. On TPU v3 and
# TPU7x a device is one of the chip's two cores. Sources: for each TPU its page in
# https://cloud.google.com/tpu/docs; for each GPU its data sheet on
# https://www.nvidia.com/en-us/data-center, where sparse figures are twice these.
_PEAKS = {
    "TPU v3": 61.5,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5": 459,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
    "TPU v6e": 918,
    "TPU7x": 1153.5,
    "NVIDIA A100-SXM4-40GB": 312,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100-PCIE-40GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
    "NVIDIA H100 80GB HBM3": 989.5,
    "NVIDIA H100 PCIe": 756.5,
    "NVIDIA H100 NVL": 835.5,
    "NVIDIA H200": 989.5,
}


class Speed:
    """Returns the speed since the last call, nothing in the first.

    Attributes:
        flops: Floating-point operations of a step on each device. None: unknown.

    Args:
        batch: Images per step.
        waited: Returns the seconds so far that the devices waited for images.
    """

    def __init__(self, batch: int, waited: Callable[[], float]):
        self.flops: float | None = None
        self._batch, self._waited = batch, waited
        self._last: tuple[int, float, float] | None = None

    def __call__(self, step: int) -> dict[str, float]:
        """Returns the speed after a step, by the names that metrics.jsonl has."""
        last, now = self._last, (step, time.monotonic(), self._waited())
        self._last = now
        if last is None or step == last[0]:
            return {}
        steps, seconds, waited = (a - b for a, b in zip(now, last, strict=True))
        speed = {
            "images_per_second": steps * self._batch / seconds,
            "waiting": waited / seconds,
        }
        if self.flops is not None:
            tflops = steps * self.flops / seconds / 1e12
            speed["tflops_per_device"] = tflops
            if peak := _PEAKS.get(jax.devices()[0].device_kind):
                speed["mfu"] = tflops / peak
        return speed


def step_flops(programs: Programs, train: Compiled, *arguments: Any) -> float | None:
    """Returns the floating-point operations of a training step on each device.

    They are what the compiler counts, or None if it cannot count them. Of the step's
    arguments only the shapes are used.
    """
    if programs.config.accumulate == 1:
        costs, devices = train.cost_analysis(), 1
    else:
        costs, devices = _in_one_part(programs, arguments), programs.mesh.size
    return costs["flops"] / devices if costs else None


def _in_one_part(programs: Programs, arguments: Any) -> dict[str, float] | None:
    """Returns the costs of a step without --accumulate, on one device.

    The compiler counts the body of a loop once, however often it runs. Without the loop
    the count also leaves out what is computed again to save memory. Only CPUs can count
    a program that is not compiled.
    """
    try:
        cpu = jax.local_devices(backend="cpu")[:1]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return None
    mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,), devices=cpu)
    config = dataclasses.replace(programs.config, accumulate=1)
    whole = dataclasses.replace(programs, config=config, mesh=mesh)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
    return whole.train.lower(*shapes).cost_analysis()
