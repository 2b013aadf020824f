"""What a run says of its embeddings."""

from vicreg_jax.pretrain import evaluation


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
        said = evaluation.summary(self.healthy | {"k-NN": 0.5}, 2048, 8192)
        assert "k-NN 50.0%, effective rank 30 of 2048" in said
        assert "covariance 6.50 (at least 3.00 at a batch size of 2048)" in said
