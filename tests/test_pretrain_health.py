"""The quick checks of a run: diagnostics of embeddings, and their summary."""

import numpy as np
import pytest

from vicreg_jax import diagnostics, vicreg_terms
from vicreg_jax.pretrain import evaluation
from vicreg_jax.pretrain.input import Arrays, Datasets
from vicreg_jax.probe import Labeled


class TestHealth:
    healthy = {"collapsed": 0.0, "effective_rank": 30.0}
    healthy |= {"covariance": 6.5, "covariance_floor": 3.0}

    def test_collapse_is_said_in_plain_words(self):
        assert evaluation.warning(self.healthy) is None
        flat = self.healthy | {"collapsed": 0.75}
        assert (
            "75% of the columns have a standard deviation below 0.1"
            in evaluation.warning(flat)
        )
        line = self.healthy | {"effective_rank": 1.1}
        assert "vary along one direction" in evaluation.warning(line)

    def test_covariance_is_said_beside_its_floor(self):
        summary = evaluation.summary(self.healthy | {"k-NN": 0.5}, 2048, 8192)
        assert "k-NN 50.0%, effective rank 30 of 2048" in summary
        assert "covariance of both views 6.50 (at least 3.00 at a batch size" in summary

    @pytest.mark.parametrize("labeled", ["train", "held_out"])
    def test_there_is_no_k_nn_of_images_without_labels(self, labeled, monkeypatch):
        """Such as of a sample of a set in which few have one."""
        images = np.zeros((4, 2, 2, 1), np.uint8)
        none, all_of_them = (np.full(4, label, np.int32) for label in (-1, 0))
        with_labels = {"train": none, "held_out": none} | {labeled: all_of_them}
        parts = {name: Arrays(images, given) for name, given in with_labels.items()}
        features = np.eye(4, dtype=np.float32)
        monkeypatch.setattr(
            evaluation,
            "features",
            lambda programs, state, source, workers: Labeled(features, source.labels),
        )
        pair = np.random.default_rng(0).standard_normal((2, 8, 4)).astype(np.float32)
        check = evaluation.quick_check(None, None, Datasets(**parts), pair)
        assert "k-NN" not in check and "covariance" in check

    def test_the_covariance_is_that_of_the_loss(self):
        rng = np.random.default_rng(0)
        pair = rng.standard_normal((2, 16, 32)).astype(np.float32)
        pair[1] *= 2
        images = Arrays(np.zeros((1, 2, 2, 1), np.uint8), np.array([-1], np.int32))
        check = evaluation.quick_check(None, None, Datasets(images, None), pair)
        first, second = (diagnostics(z) for z in pair)
        np.testing.assert_allclose(
            check["covariance"], vicreg_terms(*pair).covariance, rtol=1e-5
        )
        floor = first.covariance_floor + second.covariance_floor
        np.testing.assert_allclose(check["covariance_floor"], floor, rtol=1e-6)
        assert check["std_min"] == min(first.std_min, second.std_min)
        mean = (first.effective_rank + second.effective_rank) / 2
        np.testing.assert_allclose(check["effective_rank"], mean, rtol=1e-6)
        assert "k-NN" not in check
