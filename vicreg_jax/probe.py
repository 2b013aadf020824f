"""Linear probes and k-nearest neighbors on frozen features, by scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

if TYPE_CHECKING:
    from jaxtyping import Float, Integer


class Labeled(NamedTuple):
    """Features with labels.

    Attributes:
        features: shape ``(samples, width)``, float.
        labels: the class of each sample, shape ``(samples,)``, integer.
    """

    features: Float[np.ndarray, "samples width"]
    labels: Integer[np.ndarray, " samples"]


Accuracies: TypeAlias = dict[str, dict[str, float]]
"""Top-1 accuracies from 0 to 1, by features and by probe; see `probes`."""


def linear_probe(
    train: Labeled, test: Labeled, *, share: float = 1.0, seed: int = 0
) -> float:
    """Returns the top-1 accuracy of a linear classifier, from 0 to 1.

    Args:
        train: samples to fit the classifier to.
        test: samples to test it on.
        share: fraction of the training samples to use, the same for every class.
        seed: seed for drawing them.
    """
    if share < 1:
        features, _, labels, _ = train_test_split(
            *train, train_size=share, stratify=train.labels, random_state=seed
        )
        train = Labeled(np.asarray(features), np.asarray(labels))
    return float(_linear(train).score(*test))


def knn_probe(train: Labeled, test: Labeled, *, neighbors: int = 10) -> float:
    """Returns the top-1 accuracy of k-nearest neighbors by cosine, from 0 to 1.

    Args:
        train: samples that vote. Nearer ones have more weight.
        test: samples to test on.
        neighbors: number of samples that vote on each test sample.
    """
    probe = make_pipeline(
        Normalizer(), KNeighborsClassifier(neighbors, weights="distance")
    )
    return float(probe.fit(*train).score(*test))


def probes(train: Labeled, test: Labeled, *, seed: int = 0) -> dict[str, float]:
    """Returns the accuracies of linear probes on 1%, 10% and all labels, and of k-NN.

    A fraction that would leave a class without labels is omitted. With the classes 0
    and 1 there is also "ROC AUC", the area under the ROC curve of the linear probe on
    all labels. Unlike accuracy, it does not depend on how rare class 1 is.

    Args:
        train: samples to fit the probes to.
        test: samples to test them on.
        seed: seed for drawing the 1% and 10% of the labels.
    """
    smallest = np.unique(train.labels, return_counts=True)[1].min()
    shares = {"linear 1%": 0.01, "linear 10%": 0.1}
    accuracies = {
        name: linear_probe(train, test, share=share, seed=seed)
        for name, share in shares.items()
        if share * smallest >= 1
    }
    linear = _linear(train)
    accuracies["linear 100%"] = float(linear.score(*test))
    accuracies["k-NN"] = knn_probe(train, test)
    if set(train.labels) == set(test.labels) == {0, 1}:
        scores = linear.decision_function(test.features)
        accuracies["ROC AUC"] = float(roc_auc_score(test.labels, scores))
    return accuracies


def _linear(train: Labeled) -> Pipeline:
    # C multiplies the sum over all samples, not their mean, so that fewer samples are
    # regularized more strongly.
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.02, max_iter=500))
    return probe.fit(*train)
