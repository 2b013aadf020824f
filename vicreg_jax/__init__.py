"""VICReg (arXiv:2105.04906) for JAX: the exact loss, fast.

The loss and its parts:
    vicreg_loss: the weighted sum, for two batches of embeddings.
    vicreg_terms: the three unweighted terms, to log.
    multiview_loss, multiview_terms: the same for more than two views.
    VICRegLoss: the loss configured once and called often.
    invariance, variance, covariance: the paper's terms, one by one.

Around it:
    diagnostics: is this value normal? Collapse, effective rank, covariance floor.
    local: VICRegL, whose local loss compares positions of feature maps.
    conventions: the weights of other implementations, by name.
"""

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
