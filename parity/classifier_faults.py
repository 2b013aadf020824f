"""Faults of the evaluation protocols, each of which someone has made."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import jax
import jax.numpy as jnp
import optax

from vicreg_jax.pretrain.classifier import MOMENTUM, Classifier


class BackboneInTrainMode(Classifier):
    """The linear protocol with the statistics of the batch in the backbone."""

    def _features(self, params, stats, view, key):
        trains = replace(self, config=replace(self.config, protocol="finetune"))
        # `trains` has this class too, and its own `_features` would recurse.
        return Classifier._features(trains, params, stats, view, key)


class BackboneInEvalMode(Classifier):
    """Fine-tuning with the running statistics of pretraining."""

    def _features(self, params, stats, view, key):
        frozen = replace(self, config=replace(self.config, protocol="linear"))
        return Classifier._features(frozen, params, stats, view, key)


class UndecayedBias(Classifier):
    """Weight decay of the kernel alone."""

    @cached_property
    def _optimizer(self):
        def kernels(params):
            # Axis 0 counts the heads, so a kernel has three axes and a bias two.
            return jax.tree.map(lambda p: p.ndim > 2, params)

        decay = optax.add_decayed_weights(self.config.weight_decay)
        return optax.chain(optax.masked(decay, kernels), optax.trace(MOMENTUM))


class CosineByStep(Classifier):
    """A learning rate that falls with every step."""

    def _cosine(self, step):
        steps = self.config.epochs * self.steps_per_epoch
        return (1 + jnp.cos(jnp.pi * jnp.asarray(step, float) / steps)) / 2


class MeanOverPadding(Classifier):
    """A loss that is divided by the rows of a full batch."""

    def _losses(self, logits, labels, where):
        losses = super()._losses(logits, labels, where)
        return losses * where.sum(dtype=losses.dtype) / len(where)


class OneRate(Classifier):
    """A backbone that is trained at the rate of the head."""

    def _stepped(self, trained, updates, step):
        same = replace(self.config, lr_backbone=self.config.lr[0])
        return Classifier._stepped(replace(self, config=same), trained, updates, step)


CLASSIFIER_FAULTS = {
    "backbone-in-train-mode": BackboneInTrainMode,
    "backbone-in-eval-mode": BackboneInEvalMode,
    "undecayed-bias": UndecayedBias,
    "cosine-by-step": CosineByStep,
    "mean-over-padding": MeanOverPadding,
    "one-rate": OneRate,
}
