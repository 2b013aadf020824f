"""Probes of frozen features on JAX devices, sharded over them or not.

knn: exact k-nearest neighbors by cosine, with the weighted vote.
logistic: multinomial logistic regression by L-BFGS.
ridge: ridge regression to the classes in closed form.
accuracies: the top-1 accuracies of the first two, and ROC AUC, on a test set.

scikit-learn draws shares of the labels and computes the area under the ROC curve. The
functions that need it import it, because that takes a second.
"""

from vicreg_jax.probe import knn as knn
from vicreg_jax.probe import logistic as logistic
from vicreg_jax.probe import ridge as ridge
from vicreg_jax.probe._linear import Linear as Linear
from vicreg_jax.probe.accuracies import Accuracies as Accuracies
from vicreg_jax.probe.accuracies import Labeled as Labeled
from vicreg_jax.probe.accuracies import knn_probe as knn_probe
from vicreg_jax.probe.accuracies import linear_probe as linear_probe
from vicreg_jax.probe.accuracies import probes as probes

__all__ = [
    "Accuracies",
    "Labeled",
    "Linear",
    "knn",
    "knn_probe",
    "linear_probe",
    "logistic",
    "probes",
    "ridge",
]
