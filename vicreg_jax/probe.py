"""What frozen features know: linear probes and nearest neighbors, by scikit-learn."""

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
    """Features and the class of each.

    Attributes:
        features: shape ``(samples, width)``.
        labels: shape ``(samples,)``.
    """

    features: Float[np.ndarray, "samples width"]
    labels: Integer[np.ndarray, " samples"]


Accuracies: TypeAlias = dict[str, dict[str, float]]
"""Top-1 accuracies, 0 to 1, by features and by probe; see `probes`."""


def linear_probe(
    train: Labeled, test: Labeled, *, share: float = 1.0, seed: int = 0
) -> float:
    """Returns the top-1 accuracy of a linear classifier, 0 to 1.

    Args:
        train: what it is fitted to.
        test: what it is judged on.
        share: of the training labels that it may see, drawn from every class alike.
        seed: draws them.
    """
    if share < 1:
        features, _, labels, _ = train_test_split(
            *train, train_size=share, stratify=train.labels, random_state=seed
        )
        train = Labeled(np.asarray(features), np.asarray(labels))
    return float(_linear(train).score(*test))


def detection_probe(train: Labeled, test: Labeled) -> float:
    """Returns how well a linear classifier ranks two classes: the area under its ROC.

    Half where it knows nothing, 1 where every sample of class 1 is above all others;
    unlike accuracy, it does not depend on how rare a defect is.

    Args:
        train: what it is fitted to, of classes 0 and 1.
        test: what it is judged on.
    """
    return _area(_linear(train), test)


def knn_probe(train: Labeled, test: Labeled, *, neighbors: int = 10) -> float:
    """Returns the top-1 accuracy of a vote of the nearest by cosine, 0 to 1.

    Args:
        train: those who vote, nearer ones with more weight.
        test: what they are judged on.
        neighbors: how many vote.
    """
    probe = make_pipeline(
        Normalizer(), KNeighborsClassifier(neighbors, weights="distance")
    )
    return float(probe.fit(*train).score(*test))


def probes(train: Labeled, test: Labeled, *, seed: int = 0) -> dict[str, float]:
    """Returns the accuracy of linear probes on 1%, 10% and all labels, and of k-NN.

    A share that leaves a class without a label is left out. Of two classes there is the
    area under the ROC curve, too.
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
        accuracies["ROC AUC"] = _area(linear, test)
    return accuracies


def _linear(train: Labeled) -> Pipeline:
    # C is for the whole loss, which grows with the samples: few labels regularize more.
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.02, max_iter=500))
    return probe.fit(*train)


def _area(probe: Pipeline, test: Labeled) -> float:
    return float(roc_auc_score(test.labels, probe.decision_function(test.features)))
