"""Top-1 accuracies of linear probes and k-nearest neighbors on frozen features."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from vicreg_jax.probe import _inputs, knn, logistic

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from jaxtyping import Array, Float, Integer

    from vicreg_jax.probe._linear import Linear

# The shares of the paper's semi-supervised evaluation, and all labels.
_SHARES = (0.01, 0.1, 1.0)


class Labeled(NamedTuple):
    """Features with labels.

    Attributes:
        features: Shape ``(samples, width)``, of any float dtype.
        labels: The class of each sample, shape ``(samples,)``, integer, with values
            that this process can read. -1 marks samples to ignore, such as padding.
    """

    features: Float[Array | np.ndarray, "samples width"]
    labels: Integer[Array | np.ndarray, " samples"]


Accuracies: TypeAlias = dict[str, dict[str, float]]
"""Top-1 accuracies from 0 to 1, by features and by probe; see `probes`."""


class _Classifier(NamedTuple):
    """A linear classifier, the label of each of its classes, and where it is."""

    linear: Linear
    labels: np.ndarray
    mesh: Mesh | None


def linear_probe(
    train: Labeled,
    test: Labeled,
    *,
    share: float = 1.0,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> float:
    """Returns the top-1 accuracy of logistic regression, from 0 to 1.

    Args:
        train: Samples to fit the classifier to.
        test: Samples to test it on.
        share: Fraction of the training samples to use, the same for every class.
        seed: Seed for drawing them.
        mesh: Devices to use; see `vicreg_jax.probe.logistic.fit`.

    Raises:
        TypeError: If the features are not floating-point, or the labels not integers.
        ValueError: If a shape does not fit, or a value is not finite.
    """
    return _linear_accuracy(_fit(_drawn(train, share, seed), mesh), test)


def knn_probe(
    train: Labeled,
    test: Labeled,
    *,
    neighbors: int | None = None,
    temperature: float = knn.TEMPERATURE,
    mesh: Mesh | None = None,
) -> float:
    """Returns the top-1 accuracy of k-nearest neighbors by cosine, from 0 to 1.

    Args:
        train: Samples that vote. More similar ones have more weight.
        test: Samples to test on.
        neighbors: Number of samples that vote on each test sample. None: 20, as in the
            paper, or all samples if there are fewer.
        temperature: Temperature of the weights; see `vicreg_jax.probe.knn.classify`.
        mesh: Devices to use; see `vicreg_jax.probe.knn.nearest`.

    Raises:
        TypeError: If the features are not floating-point, or the labels not integers.
        ValueError: If a shape does not fit, a value is not finite, or there are fewer
            samples than `neighbors`.
    """
    if neighbors is None:
        neighbors = min(knn.NEIGHBORS, int((train.labels >= 0).sum()))
    found = knn.classify(
        train.features,
        train.labels,
        test.features,
        neighbors=neighbors,
        temperature=temperature,
        mesh=mesh,
    )
    return _accuracy(found, test.labels)


def probes(
    train: Labeled,
    test: Labeled,
    *,
    available: int | None = None,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> dict[str, float]:
    """Returns the accuracies of linear probes on 1%, 10% and all labels, and of k-NN.

    The names of the linear probes say how many labels they use: "linear 1%" if `train`
    has all that are available, such as "linear 50 labels" if it has some of them. A
    fraction that would leave a class without labels is omitted. With the classes 0 and
    1 there is also "ROC AUC", the area under the ROC curve of the linear probe on all
    labels. Unlike accuracy, it does not depend on how rare class 1 is.

    Args:
        train: Samples to fit the probes to.
        test: Samples to test them on.
        available: Number of labeled samples that `train` was drawn from. None: `train`
            has all of them.
        seed: Seed for drawing the 1% and 10% of the labels.
        mesh: Devices to use; see `vicreg_jax.probe.knn.nearest`.

    Raises:
        TypeError: If the features are not floating-point, or the labels not integers.
        ValueError: If a shape does not fit, or a value is not finite.
    """
    known = np.asarray(train.labels)[np.asarray(train.labels) >= 0]
    smallest = np.unique(known, return_counts=True)[1].min()
    accuracies, classifier = {}, None
    for share in _SHARES:
        if share * smallest >= 1:
            part = _drawn(train, share, seed)
            name = _name(share, part, len(known), available)
            classifier = _fit(part, mesh)
            accuracies[name] = _linear_accuracy(classifier, test)
    accuracies["k-NN"] = knn_probe(train, test, mesh=mesh)
    tested = np.asarray(test.labels)
    # Samples of one class have no ROC curve, and a classifier of one has no margin.
    if classifier and set(known) == set(tested[tested >= 0]) == {0, 1}:
        accuracies["ROC AUC"] = _area(classifier, test)
    return accuracies


def _name(share: float, part: Labeled, count: int, available: int | None) -> str:
    if available is None or available == count:
        return f"linear {100 * share:.0f}%"
    return f"linear {int((part.labels >= 0).sum())} labels"


def _drawn(samples: Labeled, share: float, seed: int) -> Labeled:
    """Returns a share of the samples, the same for every class."""
    from sklearn.model_selection import train_test_split

    if share >= 1:
        return samples
    # A narrower or an unsigned dtype might lack the -1 below.
    labels = _inputs.int32_labels(samples.labels)
    # scikit-learn would draw from -1 as from a class.
    known = np.flatnonzero(labels >= 0)
    rows, _ = train_test_split(
        known, train_size=share, stratify=labels[known], random_state=seed
    )
    if isinstance(samples.features, np.ndarray):
        return Labeled(samples.features[rows], labels[rows])
    # Rows on devices stay there; the others lose their labels.
    chosen = np.isin(np.arange(len(labels)), rows)
    return samples._replace(labels=np.where(chosen, labels, -1))


def _fit(train: Labeled, mesh: Mesh | None) -> _Classifier:
    # Found labels have the dtype of these, and test labels are compared in it. A narrow
    # dtype of the training labels might lack those of the test, such as -1.
    labels = _inputs.int32_labels(train.labels)
    names = np.unique(labels[labels >= 0])
    # The labels may have gaps, which the numbers of classes may not.
    classes = np.where(labels >= 0, np.searchsorted(names, labels), -1)
    linear = logistic.fit(train.features, classes, classes=len(names), mesh=mesh)
    return _Classifier(linear, names, _inputs.mesh_of(train.features, mesh))


def _linear_accuracy(classifier: _Classifier, test: Labeled) -> float:
    _inputs.check("test", *test)
    rows = _inputs.pad_and_shard(test.features, classifier.mesh, _inputs.MULTIPLE)
    found = classifier.linear.classes(rows)[: len(test.labels)]
    return _accuracy(jnp.asarray(classifier.labels)[found], test.labels)


def _area(classifier: _Classifier, test: Labeled) -> float:
    from sklearn.metrics import roc_auc_score

    rows = _inputs.pad_and_shard(test.features, classifier.mesh, _inputs.MULTIPLE)
    # scikit-learn needs all scores, and a process reads those of its own devices only.
    scores = process_allgather(classifier.linear.scores(rows), tiled=True)
    labels = np.asarray(test.labels)
    # The margin ranks samples as the probability does, but does not round to 1.
    margins = (scores[:, 1] - scores[:, 0])[: len(labels)]
    return float(roc_auc_score(labels[labels >= 0], margins[labels >= 0]))


def _accuracy(found: Array, labels: Array | np.ndarray) -> float:
    # From the host, since arrays on meshes of different axis types do not mix. No class
    # is -1, so samples to ignore are in neither sum.
    wanted = _inputs.int32_labels(labels)
    return float(jnp.sum(found == wanted) / np.sum(wanted >= 0))
