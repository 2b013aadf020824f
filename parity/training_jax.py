"""Our side of the training comparison: the step that `vicreg-pretrain` runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from parity.comparison import Arrays
from parity.ours import Ours, enabled
from parity.training_torch import MOMENTUM, TRUST, WEIGHT_DECAY, Run
from vicreg_jax import convert
from vicreg_jax.pretrain.config import Config
from vicreg_jax.pretrain.mesh import make_mesh, whole
from vicreg_jax.pretrain.step import Programs, State


@dataclass(frozen=True)
class GivenViews:
    """Views that are drawn already: each "image" holds its two views."""

    size: int = 1
    """Not used."""

    def pair(self, key, images, aspect):
        """Returns both views of images of shape (rows, 2, ...)."""
        del key, aspect
        return images[:, 0], images[:, 1]

    def plain(self, images, aspect):
        """Returns the first view."""
        del aspect
        return images[:, 0]


@dataclass(frozen=True)
class Step(Programs):
    """The step that ships, with a network, an optimizer or a loss given to it.

    Attributes:
        ours: Implementation whose terms are used, and whose optimizer if it has one.
        untrained: Returns the network.
    """

    ours: Ours
    untrained: Callable[[], nnx.Module]

    def start_from(self, tensors: Arrays, dtype: str) -> State:
        """Returns the state before the first step.

        Args:
            tensors: Parameters and statistics by PyTorch's names.
            dtype: Dtype of parameters and statistics.
        """
        # `load_state_dict` writes into the model, and all runs share `_shapes`.
        model = nnx.clone(self._shapes)
        convert.load_state_dict(model, tensors)
        _, *both = nnx.split(model, nnx.Param, nnx.BatchStat)
        params, stats = (
            # Loaded tensors take the float32 of the variables. Nothing is lost, as the
            # weights that runs start from are float32 numbers.
            jax.tree.map(lambda leaf: leaf.astype(dtype), nnx.to_pure_dict(part))
            for part in both
        )
        memory = self._optimizer.init(params)
        state = State(jnp.zeros((), jnp.int32), params, stats, memory)
        # Placed as the step returns it, or the second step would compile it again.
        return jax.device_put(state, whole(self.mesh))

    def rates(self, steps: int, dtype: str) -> np.ndarray:
        """Returns the learning rates of the first steps, as computed in a dtype."""
        with enabled(dtype):
            found = [self.rate(jnp.asarray(step, jnp.int32)) for step in range(steps)]
        return np.asarray(found, np.float64)

    @cached_property
    def _shapes(self):
        return _without_values(self.untrained)

    @cached_property
    def _optimizer(self):
        # SGD and the faults of LARS replace the optimizer alone. The rest of the step
        # is the one that ships.
        if self.ours.optimizer:
            return self.ours.optimizer(self.config, self.rate)
        return super()._optimizer

    def _terms(self, *embeddings):
        return self.ours.terms(*embeddings)


# Without the cache, each step of each fault would trace the network anew.
@cache
def _without_values(untrained: Callable[[], nnx.Module]) -> Any:
    """Returns a network without values, whose layers compute in their input's dtype."""
    model: Any = nnx.eval_shape(untrained)
    # The graph keeps the mode, as in `Programs._shapes`.
    model.train()
    layer: Any
    for _, layer in nnx.iter_modules(model):
        # `build` gives the layers the dtype of the configuration. A float64 run would
        # compute in that one, and nothing would say so.
        if hasattr(layer, "dtype"):
            layer.dtype = None
    return model


def config(optimizer: str, peak: float, warmup: float, **changes) -> Config:
    """Returns the settings of a run, with the constants of `training_torch`.

    Args:
        optimizer: "sgd", "adamw" or "lars".
        peak: Learning rate at the end of the warm-up.
        warmup: Share of the steps in which the learning rate rises.
        **changes: Other settings.
    """
    # `Config` knows no "sgd". `Step._optimizer` then replaces AdamW by `sgd`.
    shipped: Any = optimizer if optimizer != "sgd" else "adamw"
    return Config(
        optimizer=shipped,
        learning_rate=peak,
        warmup=warmup,
        weight_decay=WEIGHT_DECAY,
        trust_coefficient=TRUST,
        views=GivenViews(),
        **changes,
    )


def sgd(config: Config, rate: optax.Schedule) -> optax.GradientTransformation:
    """Returns SGD, which the job does not offer, with PyTorch's order of momentum."""
    del config
    return optax.sgd(rate, momentum=MOMENTUM)


def train(programs: Step, tensors: Arrays, batches: np.ndarray, dtype: str) -> Run:
    """Trains our network from PyTorch's weights; see `training_torch.train`.

    Args:
        programs: Programs of the run.
        tensors: PyTorch's weights and statistics by name.
        batches: Views of shape (steps, 2, rows, ...); images are channels last.
        dtype: To train in.

    Returns:
        As PyTorch's, but statistics are Flax's own: see `unbiased`.
    """
    losses = []
    # A GPU rounds factors of float32 products and convolutions to 10 bits by default.
    with enabled(dtype), jax.default_matmul_precision("highest"):
        state = programs.start_from(tensors, dtype)
        for batch in batches:
            state, metrics = programs.train(state, *_images(batch, dtype))
            losses.append(float(metrics.loss))
        found = convert.state_dict(programs.network(state))
    wide = {name: np.asarray(value, np.float64) for name, value in found.items()}
    statistics = {name: value for name, value in wide.items() if "running" in name}
    parameters = {n: value for n, value in wide.items() if n not in statistics}
    return Run(parameters, statistics, np.array(losses))


def gradients(programs: Step, tensors: Arrays, batch: np.ndarray) -> Arrays:
    """Returns the gradients that one float32 step of AdamW takes, by PyTorch's names.

    They are read off the first moments, which start at zero.

    Args:
        programs: Programs of the run.
        tensors: PyTorch's weights and statistics by name.
        batch: Views of shape (2, rows, ...).
    """
    with jax.default_matmul_precision("highest"):
        state = programs.start_from(tensors, "float32")
        state, _ = programs.train(state, *_images(batch, "float32"))
    # The weight decay of AdamW is decoupled, so these are moments of the loss's
    # gradient alone.
    moments = optax.tree.get(state.optimizer, "mu")
    found = convert.state_dict(programs.network(state._replace(params=moments)))
    return {
        name: np.asarray(value, np.float64) / (1 - 0.9)
        for name, value in found.items()
        if "running" not in name
    }


def unbiased(statistics: Arrays, start: Arrays, updates: int, rows: dict[str, int]):
    """Returns running statistics as PyTorch defines them, from those of Flax.

    PyTorch's running variance averages unbiased variances, Flax's biased ones, which
    are smaller by (n - 1) / n. Both still hold a share of 0.9^updates of the start.

    Args:
        statistics: Batch-norm statistics by PyTorch's names, after training.
        start: The same before training.
        updates: How often each batch norm was called.
        rows: Entries of each channel that a batch norm sees, by its name.
    """
    found = dict(statistics)
    for name, value in statistics.items():
        if name.endswith("running_var"):
            layer, kept = rows[name.rpartition(".")[0]], 0.9**updates * start[name]
            found[name] = kept + (value - kept) * layer / (layer - 1)
    return found


def _images(batch: np.ndarray, dtype: str):
    """Returns what a step takes: each row's two views, and aspect ratios of 1."""
    images = jnp.asarray(batch.swapaxes(0, 1), dtype)
    return images, jnp.ones(len(images), dtype)


def make(ours: Ours, settings: Config, untrained: Callable[[], nnx.Module]) -> Step:
    """Returns the programs of a run on one device, with one step an epoch."""
    # `Config` counts in epochs. With one step in each it can ask for any number.
    return Step(settings, make_mesh("data=1"), 1, ours, untrained)
