"""The compiled programs of a classifier: one training step, and its test.

Both protocols of facebookresearch/vicreg's evaluation are one step: SGD with momentum
on the cross-entropy of random crops, at rates that follow a cosine by epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from vicreg_jax.augment import SupervisedViews
from vicreg_jax.pretrain import mesh as meshes
from vicreg_jax.pretrain.classifier_config import ClassifierConfig
from vicreg_jax.pretrain.step import Programs, State, compiled

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int32

    from vicreg_jax.augment import Views
    from vicreg_jax.pretrain.input import Batch

# Those of facebookresearch/vicreg's evaluate.py.
MOMENTUM = 0.9
HEAD_STD = 0.01
TOP = 5


class Metrics(NamedTuple):
    """The metrics of one step, scalars on the device. Means are over the heads.

    Attributes:
        loss: Mean cross-entropy.
        accuracy: Mean top-1 accuracy on the batch, before the update.
        learning_rate: Learning rate of the first head in this step.
        gradient_norm: L2 norm of the gradient of all parameters that are trained.
    """

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    learning_rate: Float[Array, ""]
    gradient_norm: Float[Array, ""]


class Counts(NamedTuple):
    """The test of a batch.

    Attributes:
        top1: Correct images of each head.
        top5: Images of each head whose class is among its five likeliest.
        images: Labeled images.
    """

    top1: Int32[Array, " heads"]
    top5: Int32[Array, " heads"]
    images: Int32[Array, ""]


@dataclass(frozen=True)
class Classifier(Programs):
    """The programs of linear heads on an encoder, compiled when they are first called.

    The parameters of a state are those of the encoder and of the heads, whose arrays
    have one row for each learning rate. A frozen encoder stays in eval mode. One that
    is trained is in train mode, so that its batch norms use the statistics of the
    batch.

    Attributes:
        config: The settings.
        model: The pretrained encoder, which is copied.
    """

    config: ClassifierConfig
    model: Any = field(kw_only=True)

    def start(self) -> State:
        """Returns the state before the first step: the encoder and new heads."""
        return jax.device_put(self._initial(), meshes.whole(self.mesh))

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Returns what `train` and `count` take of a batch, after the state."""
        return *super().inputs(batch), batch.labels, batch.where

    @cached_property
    def train(self):
        """``(state, images, aspect, labels, where) -> (state, metrics)``, one step.

        The old state is donated. `metrics` is a `Metrics` of this module.
        """
        return self._updating(self._step)

    @cached_property
    def rate(self) -> optax.Schedule:
        """The learning rate of the first head as a function of the step."""
        return lambda step: self.config.lr[0] * self._cosine(step)

    @compiled
    def count(self, state: State, images, aspect, labels, where) -> Counts:
        """Returns the test of a batch, without augmentation."""
        model = self._merged(state.params["encoder"], state.stats, self._key(state))
        model.eval()
        features = model(self.config.views.plain(images, aspect))
        return _counts(_logits(state.params["heads"], features), labels, where)

    def _initial(self) -> State:
        _, *parts, _ = nnx.split(self.model, nnx.Param, nnx.BatchStat, ...)
        # Copies, because the step donates its state.
        encoder, stats = (
            jax.tree.map(jnp.copy, nnx.to_pure_dict(part)) for part in parts
        )
        params = {"encoder": encoder, "heads": self._heads()}
        return State(
            step=jnp.zeros((), jnp.int32),
            params=params,
            stats=stats,
            optimizer=self._optimizer.init(self._trained(params)),
        )

    @cached_property
    def _shapes(self):
        # A module of its own, so that the given one keeps its mode.
        model = nnx.merge(*nnx.split(self.model))
        model.train()
        return model

    @cached_property
    def _optimizer(self):
        # As in PyTorch's SGD, the momentum is one of gradients. The rates come after
        # it, in `_stepped`, and do not stay in it. The decay has no mask, because the
        # official code decays the bias as well.
        decay = optax.add_decayed_weights(self.config.weight_decay)
        return optax.chain(decay, optax.trace(MOMENTUM))

    @cached_property
    def _views(self) -> Views:
        views = self.config.views
        if self.config.augmentation == "crops" and isinstance(views, SupervisedViews):
            return views.crops_only()
        return views

    def _heads(self) -> dict[str, Array]:
        """Returns equal heads, one for each learning rate."""
        key = jax.random.key(self.config.seed)
        shape = self.model.out_features, self.config.classes
        # The same for all heads, so that they differ by their rates alone.
        kernel = HEAD_STD * jax.random.normal(key, shape, jnp.float32)
        heads = {"kernel": kernel, "bias": jnp.zeros(shape[1], jnp.float32)}
        count = len(self.config.lr)
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (count, *a.shape)), heads)

    def _trained(self, params: dict[str, Any]) -> dict[str, Any]:
        names = ("encoder", "heads") if self.config.finetunes else ("heads",)
        return {name: params[name] for name in names}

    def _cosine(self, step):
        """Returns half a cosine by epoch, from 1 to 0 after the last one."""
        # PyTorch's CosineAnnealingLR, which the official code steps once an epoch.
        epoch = jnp.asarray(step // self.steps_per_epoch, float)
        return (1 + jnp.cos(jnp.pi * epoch / self.config.epochs)) / 2

    def _step(self, state: State, images, aspect, labels, where):
        key = self._key(state)
        view = self._view(key, images, aspect)

        def objective(trained):
            params = state.params | trained
            features, stats = self._features(params["encoder"], state.stats, view, key)
            logits = _logits(params["heads"], features)
            losses = self._losses(logits, labels, where)
            # No head's loss depends on another head, so one gradient has them all.
            return losses.sum(), (losses, logits, stats)

        trained = self._trained(state.params)
        (_, (losses, logits, stats)), gradients = jax.value_and_grad(
            objective, has_aux=True
        )(trained)
        updates, momentum = self._optimizer.update(gradients, state.optimizer, trained)
        params = state.params | self._stepped(trained, updates, state.step)
        counts = _counts(logits, labels, where)
        metrics = Metrics(
            loss=losses.mean(),
            accuracy=counts.top1.mean() / jnp.maximum(counts.images, 1).astype(float),
            learning_rate=jnp.asarray(self.rate(state.step)),
            gradient_norm=optax.tree.norm(gradients),
        )
        return State(state.step + 1, params, stats, momentum), metrics

    def _view(self, key, images: Any, aspect):
        if self.config.augmentation == "none":
            return self._views.plain(images, aspect)
        if isinstance(images, tuple):
            # The host cuts one crop of each image, where `pair` takes two.
            images = jax.tree.map(lambda crops: jnp.repeat(crops, 2, axis=1), images)
        # The compiler removes the second view.
        return self._views.pair(key, images, aspect)[0]

    def _features(self, params, stats, view, key):
        """Returns the features, and the new batch-norm statistics."""
        model = self._merged(params, stats, key)
        if not self.config.finetunes:
            model.eval()
            return model(view), stats
        features = model(view)
        return features, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    def _losses(self, logits, labels, where):
        """Returns the mean cross-entropy of each head over the labeled rows."""
        known = where & (labels >= 0)
        # A label of -1 takes the last class, and is left out below.
        each = optax.softmax_cross_entropy_with_integer_labels(
            logits, jnp.broadcast_to(labels, logits.shape[:2])
        )
        # All images in the padded last batch of an epoch may be unreadable. The loss is
        # 0 then, where 0 / 0 would stop the run.
        count = jnp.maximum(known.sum(dtype=each.dtype), 1)
        return jnp.where(known, each, 0).sum(1) / count

    def _stepped(self, trained, updates, step) -> dict[str, Any]:
        """Returns the parameters after a step."""
        rates, cosine = jnp.asarray(self.config.lr, float), self._cosine(step)
        result = {
            "heads": jax.vmap(_moved)(
                rates * cosine, trained["heads"], updates["heads"]
            )
        }
        if self.config.finetunes:
            rate = self.config.lr_backbone * cosine
            result["encoder"] = _moved(rate, trained["encoder"], updates["encoder"])
        return result


def _logits(
    heads: dict[str, Array], features: Float[Array, "batch features"]
) -> Float[Array, "heads batch classes"]:
    def of_head(kernel, bias):
        # By default GPUs may round the factors to TF32, and TPUs to bfloat16.
        return jnp.matmul(features, kernel, precision="highest") + bias

    return jax.vmap(of_head)(heads["kernel"], heads["bias"])


def _moved(rate, params, updates):
    return jax.tree.map(lambda p, u: (p - rate * u).astype(p.dtype), params, updates)


def _counts(logits, labels, where) -> Counts:
    known = where & (labels >= 0)
    likeliest = jax.lax.top_k(logits, min(TOP, logits.shape[-1]))[1]
    right = (likeliest == labels[:, None]) & known[:, None]
    return Counts(right[..., 0].sum(1), right.any(2).sum(1), known.sum())
