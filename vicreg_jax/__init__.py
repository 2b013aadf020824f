"""VICReg (arXiv:2105.04906) for JAX: the exact self-supervised loss, fast.

The loss and its parts:
    vicreg_loss: the loss of two batches of embeddings.
    vicreg_terms: its three unweighted terms, for logging.
    multiview_loss, multiview_terms: the same for two or more views.
    VICRegLoss: the loss configured once and called often.
    invariance, variance, covariance: the paper's terms, one by one.
    local: VICRegL, whose local loss compares positions of feature maps.
    diagnostics: collapse, effective rank, and the covariance floor.
    conventions: the weights of other implementations, by name.

Trained encoders, which need the ``pretrain`` extra:
    load_encoder: the encoder of a run or a file, with its preprocessing.

Import these by name. They need the ``pretrain`` extra:
    vicreg_jax.nn: encoders and the expander, in Flax.
    vicreg_jax.optim: LARS, AdamW and the paper's schedule.
    vicreg_jax.augment: random views on the device.
    vicreg_jax.convert: PyTorch weights, both ways.
    vicreg_jax.probe: k-NN and linear probes of frozen features.
    vicreg_jax.pretrain: the pretraining job.

And this needs JAX and libtpu:
    vicreg_jax.aot: what a program needs on TPUs that are not attached.
"""

from typing import Any

from vicreg_jax import conventions as conventions
from vicreg_jax import local as local
from vicreg_jax._diagnostics import Diagnostics as Diagnostics
from vicreg_jax._diagnostics import diagnostics as diagnostics
from vicreg_jax._loss import VICRegLoss as VICRegLoss
from vicreg_jax._loss import vicreg_loss as vicreg_loss
from vicreg_jax._loss import vicreg_terms as vicreg_terms
from vicreg_jax._multiview import multiview_loss as multiview_loss
from vicreg_jax._multiview import multiview_terms as multiview_terms
from vicreg_jax._terms import VICRegTerms as VICRegTerms
from vicreg_jax._terms import covariance as covariance
from vicreg_jax._terms import invariance as invariance
from vicreg_jax._terms import variance as variance

# Without `load_encoder`: a star import would look it up, and so import Flax and Pillow.
__all__ = [
    "Diagnostics",
    "VICRegLoss",
    "VICRegTerms",
    "conventions",
    "covariance",
    "diagnostics",
    "invariance",
    "local",
    "multiview_loss",
    "multiview_terms",
    "variance",
    "vicreg_loss",
    "vicreg_terms",
]


def __getattr__(name: str) -> Any:
    # Found when they are used: the loss needs JAX alone, and is imported quickly.
    if name == "load_encoder":
        from vicreg_jax.encoder import load_encoder

        return load_encoder
    if name == "__version__":
        from importlib.metadata import version

        return version("vicreg_jax")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
