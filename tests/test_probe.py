"""Probes of frozen features."""

import io

import numpy as np
from rich.console import Console

from vicreg_jax.pretrain.report import table
from vicreg_jax.probe import (
    Labeled,
    knn_probe,
    linear_probe,
    probes,
)


class TestProbes:
    def clusters(self, spread, samples=400):
        rng = np.random.default_rng(0)
        labels = np.arange(samples) % 4
        features = np.eye(4)[labels] + spread * rng.standard_normal((samples, 4))
        return Labeled(features, labels)

    def test_separable_classes_are_found(self):
        features = self.clusters(0.05)
        assert linear_probe(features, features, share=0.1) == 1
        assert knn_probe(features, features) == 1

    def test_noise_is_not_learned(self):
        noise = self.clusters(0.0)._replace(
            features=np.random.default_rng(1).standard_normal((400, 4))
        )
        other = noise._replace(features=noise.features[::-1])
        assert knn_probe(noise, other) < 0.45

    def test_a_share_without_a_label_for_each_class_is_left_out(self):
        few = self.clusters(0.05, samples=120)
        assert list(probes(few, few)) == ["linear 10%", "linear 100%", "k-NN"]

    def test_detection_does_not_depend_on_the_threshold(self):
        rng = np.random.default_rng(0)
        labels = (rng.random(500) < 0.1).astype(int)  # a rare defect
        features = rng.standard_normal((500, 3)) + 2 * labels[:, None]
        half = [Labeled(features[i::2], labels[i::2]) for i in (0, 1)]
        # One column in the direction of the defect: ranked as that column ranks.
        assert 0.95 < probes(*half)["ROC AUC"] <= 1
        noise = [part._replace(features=rng.standard_normal((250, 3))) for part in half]
        assert abs(probes(*noise)["ROC AUC"] - 0.5) < 0.2

    def test_classes_need_not_start_at_zero(self):
        many = self.clusters(0.05)
        late = many._replace(labels=many.labels + 3)
        assert probes(late, late) == probes(many, many)

    def test_table_is_in_percent(self):
        console = Console(file=io.StringIO(), width=80)
        console.print(table({"VICReg": {"k-NN": 0.987}}, "Accuracy"))
        assert "98.7" in console.file.getvalue()
