"""Probes of frozen features, beside scikit-learn and NumPy in float64."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grids import thinned
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from vicreg_jax.pretrain.report import table
from vicreg_jax.probe import (
    Labeled,
    knn,
    knn_probe,
    linear_probe,
    logistic,
    probes,
    ridge,
)

# Optax mixes dtypes.
pytestmark = pytest.mark.usefixtures("relaxed_promotion")


def mesh(shape, kind):
    names = ("data", "model")[: len(shape)]
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(shape))


MESHES = {
    "one device": lambda: None,
    "auto": lambda: mesh((8,), AxisType.Auto),
    "explicit": lambda: mesh((8,), AxisType.Explicit),
    "two axes": lambda: mesh((4, 2), AxisType.Auto),
}
on_each_mesh = pytest.mark.parametrize(
    "on", thinned(MESHES, keep=["one device", "explicit"])
)


def draw(rows, width, classes=5, spread=1.0, seed=0):
    """Returns overlapping clusters, with columns of different scale and mean."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    centers = np.random.default_rng(9).standard_normal((classes, width))
    columns = 1 + np.arange(width) % 7
    features = centers[labels] + spread * rng.standard_normal((rows, width))
    return Labeled(np.float32(columns * features + 3), labels)


def cosines(bank, queries):
    bank, queries = (np.float64(x) for x in (bank, queries))
    norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(bank, axis=1)
    return queries @ bank.T / norms


class TestNearest:
    @on_each_mesh
    @pytest.mark.parametrize(
        "rows, queries, k",
        thinned(
            [(1, 1, 1), (37, 11, 5), (8201, 1030, 20), (66_001, 9, 3)],
            keep=[(37, 11, 5)],
        ),
    )
    def test_beside_numpy(self, x64, on, rows, queries, k):
        """One block and several, of the bank and of the queries; with padding."""
        self.beside_numpy(on, rows, queries, k)

    @on_each_mesh
    def test_small_blocks_beside_numpy(self, x64, monkeypatch, on):
        """Several of both, on each device."""
        monkeypatch.setattr(knn, "_BANK", 64)
        monkeypatch.setattr(knn, "_QUERIES", 16)
        self.beside_numpy(on, rows=1101, queries=45, k=20)

    def beside_numpy(self, on, rows, queries, k):
        rng = np.random.default_rng(rows)
        bank, asked = rng.standard_normal((rows, 6)), rng.standard_normal((queries, 6))
        found = knn.nearest(bank, asked, neighbors=k, mesh=MESHES[on]())
        wanted = cosines(bank, asked)
        # Sorting whole rows would take most of the time.
        nearest = np.argpartition(-wanted, k - 1, axis=1)[:, :k]
        by_cosine = np.argsort(-np.take_along_axis(wanted, nearest, 1), axis=1)
        order = np.take_along_axis(nearest, by_cosine, 1)
        np.testing.assert_array_equal(found.indices, order)
        sorted_cosines = np.take_along_axis(wanted, order, 1)
        np.testing.assert_allclose(found.similarities, sorted_cosines, rtol=1e-12)

    @on_each_mesh
    def test_ties_go_to_the_first_rows(self, on):
        """The values are exact: 32 copies each of four rows of norm 2."""
        bank = np.tile(np.float32(1) - 2 * np.eye(4, dtype=np.float32), (32, 1))
        found = knn.nearest(bank, bank[:4], neighbors=40, mesh=MESHES[on]())
        for query, (indices, cosine) in enumerate(
            zip(found.indices, found.similarities, strict=True)
        ):
            copies = np.arange(query, 128, 4)
            others = np.setdiff1d(np.arange(128), copies)[:8]
            np.testing.assert_array_equal(indices, [*copies, *others])
            np.testing.assert_array_equal(cosine, [1] * 32 + [0] * 8)

    @on_each_mesh
    def test_rows_that_are_not_searched(self, on):
        bank, asked = draw(50, 6).features, draw(7, 6, seed=1).features
        where = np.random.default_rng(0).random(50) < 0.3
        found = knn.nearest(
            bank, asked, neighbors=where.sum(), where=where, mesh=MESHES[on]()
        )
        own = knn.nearest(bank[where], asked, neighbors=where.sum())
        np.testing.assert_array_equal(found.indices, np.flatnonzero(where)[own.indices])

    def test_bfloat16_features_are_compared_as_they_are(self):
        bank, asked = (
            jnp.asarray(draw(300, 64, seed=s).features, jnp.bfloat16) for s in (0, 1)
        )
        found = knn.nearest(bank, asked, neighbors=300)
        wanted = np.sort(cosines(*map(np.asarray, (bank, asked))), axis=1)[:, ::-1]
        assert found.similarities.dtype == jnp.float32
        np.testing.assert_allclose(found.similarities, wanted, atol=1e-6)

    def test_a_row_of_zeros_is_similar_to_nothing(self):
        bank = np.float32([[0, 0], [1, 0], [-1, 0]])
        found = knn.nearest(bank, bank[:2], neighbors=3)
        np.testing.assert_array_equal(found.similarities, [[0, 0, 0], [1, 0, -1]])

    @pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
    def test_a_sharded_bank_brings_its_mesh(self, kind):
        on = mesh((8,), kind)
        bank, asked = draw(64, 6).features, draw(7, 6, seed=1).features
        spread = jax.device_put(bank, NamedSharding(on, P("data")))
        found = knn.nearest(spread, asked, neighbors=4)
        assert len(found.indices.sharding.device_set) == 8
        alone = knn.nearest(bank, asked, neighbors=4)
        np.testing.assert_array_equal(found.indices, alone.indices)

    @pytest.mark.parametrize("k", [0, 6])
    def test_more_neighbors_than_rows(self, k):
        bank = draw(8, 3).features
        with pytest.raises(ValueError, match=f"`neighbors` must be.* 5 rows.*got {k}"):
            knn.nearest(bank, bank, neighbors=k, where=np.arange(8) < 5)

    @pytest.mark.usefixtures("unchecked_signatures")
    @pytest.mark.parametrize(
        "where, error, match",
        [
            # On eight devices both are padded to sixteen rows.
            (np.ones(11, bool), ValueError, r"`where`.* shape \(10,\), got \(11,\)"),
            (np.ones((10, 1), bool), ValueError, r"`where`.* got \(10, 1\)"),
            (np.ones(10, int), TypeError, "`where` must be bool, got int64"),
        ],
    )
    def test_where_is_a_bool_for_each_row(self, where, error, match):
        bank = draw(10, 3).features
        with pytest.raises(error, match=match):
            knn.nearest(
                bank, bank, neighbors=2, where=where, mesh=mesh((8,), AxisType.Auto)
            )


class TestClassify:
    @on_each_mesh
    @pytest.mark.parametrize("k, temperature", [(1, 0.07), (20, 0.07), (60, 0.5)])
    def test_beside_scikit_learn(self, x64, on, k, temperature):
        bank, test = draw(301, 6, spread=3), draw(90, 6, spread=3, seed=1)
        bank, test = (s._replace(features=np.float64(s.features)) for s in (bank, test))
        other = KNeighborsClassifier(
            k, metric="cosine", weights=lambda d: np.exp((1 - d) / temperature)
        )
        found = knn.classify(
            *bank,
            test.features,
            neighbors=k,
            temperature=temperature,
            mesh=MESHES[on](),
        )
        np.testing.assert_array_equal(found, other.fit(*bank).predict(test.features))

    def test_a_low_temperature_does_not_overflow(self):
        bank = draw(100, 6)
        found = knn.classify(*bank, bank.features, temperature=1e-4)
        np.testing.assert_array_equal(found, bank.labels)

    def test_unlabeled_rows_do_not_vote(self):
        bank, test = draw(100, 6, spread=3), draw(40, 6, spread=3, seed=1)
        some = np.where(np.arange(100) % 3, bank.labels, -1)
        part = bank.features[some >= 0], some[some >= 0]
        np.testing.assert_array_equal(
            knn.classify(bank.features, some, test.features),
            knn.classify(*part, test.features),
        )

    def test_labels_below_minus_one(self):
        bank = draw(30, 3)
        with pytest.raises(ValueError, match="`labels` must be from 0, or -1.*got -2"):
            knn.classify(bank.features, bank.labels - 2, bank.features)

    @pytest.mark.parametrize("label", [2**31, 2**32 + 1, -(2**32)])
    def test_labels_that_int32_lacks(self, label):
        bank = draw(30, 3)
        labels = np.append(bank.labels[1:], label)
        with pytest.raises(ValueError, match=f"`labels` must be .*got {label}"):
            knn.classify(bank.features, labels, bank.features)

    def test_temperature_must_be_positive(self):
        bank = draw(30, 3)
        with pytest.raises(ValueError, match="`temperature` must be above 0, got 0"):
            knn.classify(*bank, bank.features, temperature=0)


def standardized(features):
    return StandardScaler().fit_transform(np.float64(features))


def objective(weights, bias, samples, l2):
    scores = standardized(samples.features) @ np.float64(weights) + np.float64(bias)
    losses = np.logaddexp.reduce(scores, axis=1)
    losses -= scores[np.arange(len(scores)), samples.labels]
    return losses.sum() + l2 / 2 * np.sum(np.float64(weights) ** 2)


def optimum(samples, l2):
    """Returns the smallest objective, by scikit-learn in float64."""
    other = LogisticRegression(C=1 / l2, tol=1e-8, max_iter=10_000)
    other.fit(standardized(samples.features), samples.labels)
    weights, bias = other.coef_.T, other.intercept_
    if len(other.classes_) == 2:
        # One vector for the difference of the two classes, with the whole penalty.
        weights, bias = (np.stack([-x, x], -1).squeeze() / 2 for x in (weights, bias))
        weights = np.concatenate([-other.coef_.T, other.coef_.T], axis=1) / 2
        bias = np.concatenate([-other.intercept_, other.intercept_]) / 2
        l2 = 2 * l2
    return objective(weights, bias, samples, l2)


class TestLogistic:
    @on_each_mesh
    @pytest.mark.parametrize(
        "rows, width, classes, l2",
        thinned(
            [(700, 12, 5, 50.0), (700, 12, 5, 0.5), (60, 80, 3, 50.0), (400, 9, 2, 5)],
            keep=[(700, 12, 5, 50.0), (400, 9, 2, 5)],
        ),
    )
    def test_beside_scikit_learn(self, on, rows, width, classes, l2):
        samples = draw(rows, width, classes, spread=2)
        found = logistic.fit(*samples, l2=l2, mesh=MESHES[on]())
        assert found.weights.dtype == jnp.float32
        penalty = 2 * l2 if classes == 2 else l2
        value = objective(found.weights, found.bias, samples, penalty)
        wanted = optimum(samples, l2)
        assert -1e-9 < value / wanted - 1 < 1e-6

    def test_float64(self, x64):
        samples = draw(300, 6, spread=2)
        samples = samples._replace(features=np.float64(samples.features))
        found = logistic.fit(*samples, tolerance=1e-12)
        value = objective(found.weights, found.bias, samples, 50.0)
        assert abs(value / optimum(samples, 50.0) - 1) < 1e-10

    @on_each_mesh
    def test_a_class_without_samples_and_rows_without_a_label(self, on):
        samples = draw(300, 6, spread=2)
        labels = np.where(samples.labels == 2, -1, samples.labels)
        found = logistic.fit(samples.features, labels, classes=7, mesh=MESHES[on]())
        known = labels >= 0
        names, own = np.unique(labels[known], return_inverse=True)
        wanted = logistic.fit(samples.features[known], own)
        given = found.classes(samples.features)
        np.testing.assert_array_equal(given, names[wanted.classes(samples.features)])
        np.testing.assert_allclose(
            found.weights[:, names], wanted.weights, rtol=1e-3, atol=1e-4
        )
        assert not np.asarray(found.weights)[:, [2, 5, 6]].any()

    def test_any_number_of_devices(self):
        samples, on = draw(300, 6), Mesh(jax.devices()[:3], "data")
        found = logistic.fit(*samples, mesh=on)
        wanted = logistic.fit(*samples)
        np.testing.assert_allclose(found.weights, wanted.weights, rtol=1e-3, atol=1e-4)

    def test_a_constant_column_has_no_weight(self):
        samples = draw(300, 6, spread=2)
        constant = np.full((300, 1), 0.1, np.float32)
        wider = np.concatenate([samples.features, constant], axis=1)
        found = logistic.fit(wider, samples.labels)
        np.testing.assert_allclose(found.weights[-1], 0, atol=1e-6)
        np.testing.assert_allclose(found.scale[-1], 1)

    @pytest.mark.parametrize(
        "change, error",
        [
            ({"l2": 0.0}, "`l2` must be above 0, got 0"),
            ({"classes": 4}, "`labels` must be from 0 to 3, or -1.*got 0 to 4"),
            ({"labels": np.full(30, -1)}, "`labels` must be from 0, or -1.*got -1 to"),
            ({"labels": np.zeros(29, int)}, r"a label for each row.*got \(29,\)"),
            ({"features": np.full((30, 3), np.nan)}, "`features` must be finite"),
            ({"features": np.full((30, 3), np.float32(1e38))}, "finite sum.* got inf"),
            ({"features": np.full((30, 3), np.float32(1e20))}, "finite sum.* got inf"),
            ({"features": jnp.full((30, 3), 1e20)}, "finite sum of squares, got inf"),
            ({"features": np.ones((30, 0))}, r"`features` must have shape.*\(30, 0\)"),
        ],
    )
    @pytest.mark.usefixtures("unchecked_signatures")
    def test_arguments_that_do_not_fit(self, change, error):
        samples = draw(30, 3)._asdict() | change
        with pytest.raises(ValueError, match=error):
            logistic.fit(**samples)

    @pytest.mark.usefixtures("unchecked_signatures")
    def test_dtypes_that_do_not_fit(self):
        features, labels = draw(30, 3)
        with pytest.raises(TypeError, match="`features` must be floating.*got int64"):
            logistic.fit(features.astype(int), labels)
        with pytest.raises(TypeError, match="labels of `features` must be int.*float"):
            logistic.fit(features, labels.astype(float))


class TestRidge:
    def wanted(self, samples, held_out, lambdas):
        """Returns the errors by lambda, and the best classifier, by scikit-learn."""
        x, y = np.float64(samples.features), np.eye(5)[samples.labels]

        def fitted(rows, penalty):
            eigenvalues = np.linalg.eigvalsh(np.cov(x[rows].T, bias=True) * rows.sum())
            return Ridge(penalty * eigenvalues.mean()).fit(x[rows], y[rows])

        errors = [
            np.mean(
                np.sum((y - fitted(~held_out, penalty).predict(x)) ** 2, 1)[held_out]
            )
            for penalty in lambdas
        ]
        best = lambdas[np.argmin(errors)]
        return errors, best, fitted(np.ones(len(x), bool), best).predict(x)

    @on_each_mesh
    @pytest.mark.parametrize("rows, width", [(500, 12), (60, 80)])
    def test_beside_scikit_learn(self, on, rows, width):
        """More rows than columns, and fewer, with a singular Gram matrix."""
        samples = draw(rows, width, spread=3)
        held_out = np.random.default_rng(1).random(rows) < 0.3
        lambdas = [1e-3, 1e-2, 0.1, 1.0, 10.0]
        found = ridge.fit(
            *samples, lambdas=lambdas, held_out=held_out, mesh=MESHES[on]()
        )
        errors, best, scores = self.wanted(samples, held_out, lambdas)
        np.testing.assert_allclose(found.errors, errors, rtol=1e-3)
        assert float(found.penalty) == np.float32(best)
        given = found.linear.scores(samples.features)
        np.testing.assert_allclose(given, scores, atol=2e-4)

    def test_float64(self, x64):
        samples = draw(200, 12, spread=3)
        samples = samples._replace(features=np.float64(samples.features))
        held_out = np.arange(200) % 4 == 0
        found = ridge.fit(*samples, held_out=held_out)
        errors, best, scores = self.wanted(samples, held_out, ridge.LAMBDAS)
        np.testing.assert_allclose(found.errors, errors, rtol=1e-10)
        assert float(found.penalty) == best
        given = found.linear.scores(samples.features)
        np.testing.assert_allclose(given, scores, atol=1e-12)

    def test_a_far_mean_does_not_matter(self):
        samples = draw(400, 6, spread=3)
        far = samples._replace(features=samples.features + np.float32(2**10))
        near, moved = (ridge.fit(*s, seed=1) for s in (samples, far))
        np.testing.assert_allclose(
            near.linear.weights, moved.linear.weights, rtol=2e-3, atol=2e-4
        )

    def test_rows_without_a_label_do_not_count(self):
        samples = draw(400, 6, spread=3)
        labels = np.where(np.arange(400) < 200, samples.labels, -1)
        held_out = np.arange(400) % 4 == 0
        found = ridge.fit(samples.features, labels, held_out=held_out)
        wanted = ridge.fit(*(x[:200] for x in samples), held_out=held_out[:200])
        np.testing.assert_allclose(found.errors, wanted.errors, rtol=1e-5)
        np.testing.assert_allclose(found.linear.weights, wanted.linear.weights, 1e-3)

    @pytest.mark.parametrize("value", [0.0, 0.1])
    def test_collapsed_features_predict_the_most_frequent_class(self, value):
        features = np.full((50, 4), value, np.float32)
        labels = np.array([1] * 30 + [0, 2] * 10)
        found = ridge.fit(features, labels)
        assert np.isfinite(found.errors).all()
        np.testing.assert_array_equal(found.linear.classes(features), 1)
        np.testing.assert_allclose(found.linear.scores(features)[0], [0.2, 0.6, 0.2])

    def test_every_class_is_held_out_and_left(self):
        labels = np.sort(draw(400, 6).labels)
        drawn = ridge._draw(labels, seed=0)
        assert drawn.sum() == 80
        assert set(labels[drawn]) == set(labels[~drawn]) == set(range(5))

    @pytest.mark.parametrize(
        "change, error",
        [
            ({"lambdas": []}, r"`lambdas` must be one or more .* above 0, got \[\]"),
            ({"lambdas": [1.0, 0.0]}, "`lambdas` must be one or more .* above 0, got"),
            ({"held_out": np.zeros(30, bool)}, "not all, got 0 of 30"),
            ({"held_out": np.ones(30, bool)}, "not all, got 30 of 30"),
        ],
    )
    def test_arguments_that_do_not_fit(self, change, error):
        with pytest.raises(ValueError, match=error):
            ridge.fit(*draw(30, 3), **change)


class TestProbes:
    def clusters(self, spread, samples=400):
        rng = np.random.default_rng(0)
        labels = np.arange(samples) % 4
        features = np.eye(4)[labels] + spread * rng.standard_normal((samples, 4))
        return Labeled(np.float32(features), labels)

    @on_each_mesh
    def test_separable_classes_are_found(self, on):
        features = self.clusters(0.05)
        mesh = MESHES[on]()
        assert linear_probe(features, features, share=0.1, mesh=mesh) == 1
        assert knn_probe(features, features, mesh=mesh) == 1

    def test_noise_is_not_learned(self):
        noise = self.clusters(0.0)._replace(
            features=np.float32(np.random.default_rng(1).standard_normal((400, 4)))
        )
        other = noise._replace(features=noise.features[::-1])
        assert knn_probe(noise, other) < 0.45

    def test_a_share_without_a_label_for_each_class_is_left_out(self):
        few = self.clusters(0.05, samples=120)
        assert list(probes(few, few)) == ["linear 10%", "linear 100%", "k-NN"]

    def test_a_sample_is_named_by_its_labels(self):
        few = self.clusters(0.05, samples=120)
        found = probes(few, few, available=1000)
        assert list(found) == ["linear 12 labels", "linear 120 labels", "k-NN"]
        assert list(found.values()) == list(probes(few, few, available=120).values())

    def test_detection_does_not_depend_on_the_threshold(self):
        rng = np.random.default_rng(0)
        labels = (rng.random(500) < 0.1).astype(int)  # a rare defect
        features = np.float32(rng.standard_normal((500, 3)) + 2 * labels[:, None])
        half = [Labeled(features[i::2], labels[i::2]) for i in (0, 1)]
        # One column in the direction of the defect: ranked as that column ranks.
        area = probes(*half)["ROC AUC"]
        assert 0.95 < area <= 1
        # Samples without a label change nothing, wherever they rank.
        padded = half[1]._replace(
            features=np.concatenate([half[1].features, features[:4] - 9]),
            labels=np.append(half[1].labels, [-1] * 4),
        )
        assert probes(half[0], padded)["ROC AUC"] == area
        noise = [
            part._replace(features=np.float32(rng.standard_normal((250, 3))))
            for part in half
        ]
        assert abs(probes(*noise)["ROC AUC"] - 0.5) < 0.2

    def test_classes_need_not_start_at_zero(self):
        many = self.clusters(0.05)
        late = many._replace(labels=many.labels + 3)
        assert probes(late, late) == probes(many, many)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int8])
    def test_labels_of_narrow_dtypes(self, dtype):
        """Rows to ignore, and labels that the dtype lacks, in the test labels."""
        many = self.clusters(0.05)
        narrow = many._replace(labels=many.labels.astype(dtype))
        some = np.where(np.arange(400) < 200, many.labels, -1)
        some[:50] += 256  # wrong, though the narrow dtypes would wrap them to right
        padded = many._replace(labels=some)
        assert linear_probe(narrow, padded) == knn_probe(narrow, padded) == 0.75

    @pytest.mark.usefixtures("unchecked_signatures")
    @pytest.mark.parametrize("share", [0.5, 1.0])
    def test_labels_that_are_not_integers(self, share):
        many = self.clusters(0.05)
        train = many._replace(labels=many.labels + 0.5)
        with pytest.raises(TypeError, match="`labels` must be integers, got float64"):
            linear_probe(train, many, share=share)

    def test_a_share_of_unsigned_labels_on_devices(self):
        many = self.clusters(0.05)
        on_device = Labeled(jnp.asarray(many.features), many.labels.astype(np.uint8))
        assert linear_probe(on_device, many, share=0.1) == 1

    def test_a_class_that_training_lacks_is_missed(self):
        many = self.clusters(0.05)
        known = many.labels != 3
        train = Labeled(many.features[known], many.labels[known])
        assert knn_probe(train, many) == linear_probe(train, many) == 0.75

    def test_few_samples_have_fewer_neighbors(self):
        few = self.clusters(0.05, samples=8)
        assert 0 <= knn_probe(few, few) <= 1
        with pytest.raises(ValueError, match="`neighbors` must be.* 8 rows.*got 9"):
            knn_probe(few, few, neighbors=9)

    @pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
    def test_padded_features_on_a_mesh(self, kind):
        on = mesh((8,), kind)
        pad, rows = (0, 4), NamedSharding(on, P("data"))
        many = self.clusters(0.3, samples=300)
        spread = Labeled(
            jax.device_put(np.pad(many.features, (pad, (0, 0))), rows),
            jax.device_put(np.pad(many.labels, pad, constant_values=-1), rows),
        )
        assert probes(spread, spread) == pytest.approx(probes(many, many))

    def test_table_is_in_percent(self):
        console = Console(file=io.StringIO(), width=80)
        console.print(table({"VICReg": {"k-NN": 0.987}}, "Accuracy"))
        assert "98.7" in console.file.getvalue()
