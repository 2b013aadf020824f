"""One update on any mesh, in parts and in half precision; frozen features."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from grids import thinned
from runs import MIRRORED, tiny

from vicreg_jax import vicreg_terms
from vicreg_jax.pretrain import evaluation
from vicreg_jax.pretrain.input import Subset, load_datasets, sample
from vicreg_jax.pretrain.mesh import by_rows, make_mesh
from vicreg_jax.pretrain.step import Programs


@cache
def compiled(config, mesh):
    return Programs(config, make_mesh(mesh), steps_per_epoch=9)


@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
class TestStep:
    images = np.random.default_rng(0).integers(0, 255, (16, 8, 8, 1), np.uint8)

    def updated(self, mesh, **changes):
        programs = compiled(tiny(**changes), mesh)
        aspect = np.ones(16, np.float32)
        batch = jax.device_put((self.images, aspect), by_rows(programs.mesh))
        state = programs.start()
        for _ in range(2):
            state, metrics = programs.train(state, *batch)
        return jax.device_get((state, metrics))

    def test_it_is_a_pure_function_of_state_and_images(self):
        state, found = self.updated("data=1")
        assert state.step == 2
        chex.assert_tree_all_finite(state)
        chex.assert_trees_all_equal(self.updated("data=1"), (state, found))
        start = jax.device_get(compiled(tiny(), "data=1").start())
        changed = jax.tree.map(lambda a, b: np.any(a != b), state.params, start.params)
        assert sum(jax.tree.leaves(changed)) > len(jax.tree.leaves(changed)) // 2

    @pytest.mark.parametrize(
        "mesh", thinned(["data=8", "data=4,more=2"], keep=["data=4,more=2"])
    )
    def test_devices_change_rounding_only(self, mesh):
        views = MIRRORED
        one, wanted = self.updated("data=1", views=views)
        many, found = self.updated(mesh, views=views)
        chex.assert_trees_all_close(found, wanted, rtol=2e-4, atol=1e-6)
        chex.assert_trees_all_close(many.stats, one.stats, rtol=1e-4, atol=1e-5)

    def test_parts_of_a_batch_meet_in_the_loss(self):
        """Every second row passes by itself, the loss sees all of them in order."""
        programs = compiled(tiny(accumulate=2, views=MIRRORED), "data=1")
        state = programs.start()
        model = programs.network(state)
        key = jax.random.fold_in(jax.random.key(0), 0)
        aspect = jnp.ones(16)
        pair = programs.config.views.pair(key, jnp.asarray(self.images), aspect)
        parts = [[model(view[part::2]) for view in pair] for part in range(2)]
        joined = (
            jnp.stack([parts[0][view], parts[1][view]], 1).reshape(16, -1)
            for view in range(2)
        )
        wanted = vicreg_terms(*joined)
        state, found = programs.train(state, self.images, aspect)
        np.testing.assert_allclose(found[1:4], wanted, rtol=1e-5)
        stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        chex.assert_trees_all_close(state.stats, stats, rtol=1e-5, atol=1e-6)

    def test_half_precision_keeps_whole_parameters(self):
        state, found = self.updated("data=8", dtype="bfloat16", views=MIRRORED)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {
            "float32"
        }
        assert found.loss.dtype == np.float32 and np.isfinite(found.loss)

    def test_frozen_features_do_not_depend_on_their_neighbors(self):
        programs = compiled(tiny(), "data=2")
        source = sample(load_datasets(tiny()).train, 130)
        state = programs.start()
        found = evaluation.features(programs, state, source)
        assert found.features.shape == (130, 16)  # one batch and two rows of another
        np.testing.assert_array_equal(found.labels, source.labels)
        few = evaluation.features(programs, state, Subset(source, np.arange(3)))
        np.testing.assert_allclose(few.features, found.features[:3], atol=1e-6)
