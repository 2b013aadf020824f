"""The probe section: k-NN and the linear probe beside scikit-learn and Faiss."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from benchmarks import timing
from benchmarks.options import Options
from benchmarks.results import Section, Sheet, spread
from benchmarks.sizes import Size
from benchmarks.timing import Budget, Call, Spread

OURS, SKLEARN, FAISS = "ours", "scikit-learn", "Faiss"
KNN, LINEAR = "k-NN", "linear"
_GOAL = 1.0
_L2 = 50.0


class Problem(NamedTuple):
    """The size of a probe.

    Attributes:
        rows: Number of training features.
        width: Width of the features.
        queries: Number of test features.
        classes: Number of classes.
    """

    rows: int
    width: int
    queries: int
    classes: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.width}, {self.classes} classes"

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns training features, their labels and queries, as a ReLU leaves them.

        The classes overlap, and a few directions have most of the variance, as in the
        features of an encoder.
        """
        rng = np.random.default_rng(0)
        count = self.rows + self.queries
        labels = rng.integers(0, self.classes, count)
        codes = rng.standard_normal((self.classes, 64), np.float32)[labels]
        codes += 2 * rng.standard_normal((count, 64), np.float32)
        codes *= 1 / np.sqrt(1 + np.arange(64, dtype=np.float32))
        features = codes @ rng.standard_normal((64, self.width), np.float32)
        features += rng.standard_normal(features.shape, np.float32)
        np.maximum(features, 0, out=features)
        return features[: self.rows], labels[: self.rows], features[self.rows :]


def _problem(size: Size) -> Problem:
    return Problem(*size, queries=max(10, size.n // 50), classes=10)


def run(options: Options, progress) -> Section:
    """Measures each probe's contenders in turns.

    Args:
        options: The parsed command line.
        progress: Called with a description of each part.
    """
    # A call takes seconds to minutes, so that a few turns must be enough.
    budget = options.budget._replace(rounds=3)
    records = []
    for problem in map(_problem, options.probe_sizes()):
        arrays = problem.arrays()
        for probe, contenders in CONTENDERS.items():
            progress(f"probe {probe} {problem}")
            found = measure(contenders, arrays, budget)
            records.append({"probe": probe, "size": str(problem)} | found)
    return Section("probe", records, [_sheet(records)])


def measure(contenders: dict[str, Callable[..., Call]], arrays, budget: Budget) -> dict:
    """Returns the times of the contenders, and how often they agree with ours.

    Args:
        contenders: Functions by name; each returns a call for `arrays`.
        arrays: Training features, their labels, and queries.
        budget: How long to measure.
    """
    calls, estimates, found = {}, {}, {}
    for name, build in contenders.items():
        if name == FAISS and not importlib.util.find_spec("faiss"):
            continue
        calls[name] = build(*arrays)
        found[name], estimates[name] = timing.warmed_up(calls[name])
    times = timing.interleaved(calls, estimates, budget)
    return {
        "seconds": {n: Spread.of(t.values())._asdict() for n, t in times.items()},
        "times_ours": {
            name: over._asdict()
            for name in calls
            if name != OURS and (over := timing.ratio(times[name], times[OURS]))
        },
        "agreement": {n: float(np.mean(f == found[OURS])) for n, f in found.items()},
    }


def _our_neighbors(bank, labels, queries) -> Call:
    import jax.numpy as jnp

    from vicreg_jax.probe import knn

    placed = jnp.asarray(bank), jnp.asarray(queries)
    return lambda: np.asarray(knn.nearest(*placed).indices)


def _sklearn_neighbors(bank, labels, queries) -> Call:
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=20, algorithm="brute").fit(_unit(bank))
    asked = _unit(queries)
    return lambda: search.kneighbors(asked, return_distance=False)


def _faiss_neighbors(bank, labels, queries) -> Call:
    faiss = importlib.import_module("faiss")

    # The exact index, which compares with every row as ours does.
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(_unit(bank))
    asked = _unit(queries)
    return lambda: index.search(asked, 20)[1]


def _unit(features: np.ndarray) -> np.ndarray:
    # Between unit vectors, the nearest by distance and by inner product are those by
    # cosine. Ours normalizes within the call that is timed, the others before it.
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def _our_regression(features, labels, queries) -> Call:
    import jax.numpy as jnp

    from vicreg_jax.probe import logistic

    placed = jnp.asarray(features)
    return lambda: np.asarray(logistic.fit(placed, labels, l2=_L2).classes(queries))


def _sklearn_regression(features, labels, queries) -> Call:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # About as near the optimum as ours. With its default, 1e-4, scikit-learn is faster
    # because it stops early.
    regression = LogisticRegression(C=1 / _L2, max_iter=1000, tol=1e-6)
    probe = make_pipeline(StandardScaler(), regression)
    return lambda: probe.fit(features, labels).predict(queries)


CONTENDERS: dict[str, dict[str, Callable[..., Call]]] = {
    KNN: {OURS: _our_neighbors, SKLEARN: _sklearn_neighbors, FAISS: _faiss_neighbors},
    LINEAR: {OURS: _our_regression, SKLEARN: _sklearn_regression},
}


def _sheet(records: list[dict]) -> Sheet:
    rows, notes = [], []
    for record in records:
        for name, seconds in record["seconds"].items():
            over = record["times_ours"].get(name)
            ratio = "{median:.3g} ({low:.3g}-{high:.3g})".format(**over) if over else ""
            agreement = f"{100 * record['agreement'][name]:.2f}%"
            what = f"{record['probe']}, {name}"
            rows.append([what, record["size"], spread(seconds), ratio, agreement])
            if over:
                verdict = "met" if over["median"] >= _GOAL else "NOT MET"
                notes.append(f"goal for {what}: >= {_GOAL:g} times ours: {verdict}")
    if not importlib.util.find_spec("faiss"):
        notes.append("Faiss: not run: `pip install faiss-cpu`")
    headings = ["probe", "size", "median (quartiles)", "times as long as ours"]
    return Sheet(
        "Probes of frozen features, float32",
        [*headings, "same as ours"],
        rows,
        [
            "k-NN: the 20 nearest by cosine; linear: fit and predict",
            "same as ours: of the neighbors, place by place, or of the predictions",
            *notes,
        ],
    )
