"""One update on any mesh, in parts and in half precision; frozen features."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
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
    entries = 16 * 8 * 8  # of a channel, which a batch norm adds

    def updated(self, mesh, params=None, steps=2, **changes):
        """Returns the state and the metrics after a few steps, from given parameters.

        By default the parameters are those that a run starts with.
        """
        programs = compiled(tiny(**changes), mesh)
        aspect = np.ones(16, np.float32)
        batch = jax.device_put((self.images, aspect), by_rows(programs.mesh))
        state = programs.start()
        if params is not None:
            params = jax.device_put(params, state.step.sharding)
            state = state._replace(params=params)
        for _ in range(steps):
            state, metrics = programs.train(state, *batch)
        return jax.device_get((state, metrics))

    def roundings(self, of, steps=2, **changes):
        """Returns how far rounding may take what `of` picks of `updated`."""
        start = jax.device_get(compiled(tiny(**changes), "data=1").start())

        def program(params):
            return of(*self.updated("data=1", params, steps, **changes))

        return rounding.of_network(program, start.params, self.entries)

    def test_it_is_a_pure_function_of_state_and_images(self):
        state, found = self.updated("data=1")
        assert state.step == 2
        chex.assert_tree_all_finite(state)
        chex.assert_trees_all_equal(self.updated("data=1"), (state, found))
        start = jax.device_get(compiled(tiny(), "data=1").start())
        changed = jax.tree.map(lambda a, b: np.any(a != b), state.params, start.params)
        assert sum(jax.tree.leaves(changed)) > len(jax.tree.leaves(changed)) // 2

    @pytest.mark.parametrize(
        "mesh", thinned(["data=8", "data=4,more=2"], keep=["data=8"])
    )
    def test_devices_change_rounding_only(self, mesh):
        def compared(state, metrics):
            return metrics, state.stats

        views = MIRRORED
        one = compared(*self.updated("data=1", views=views))
        many = compared(*self.updated(mesh, views=views))
        rounding.assert_close(many, one, self.roundings(compared, views=views))

    @pytest.mark.slow
    def test_parts_of_a_batch_meet_in_the_loss(self):
        """Every second row passes by itself, the loss sees all of them in order."""
        changes = dict(accumulate=2, views=MIRRORED)
        programs = compiled(tiny(**changes), "data=1")
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
        wanted = tuple(vicreg_terms(*joined))
        stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

        def compared(state, metrics):
            return metrics[1:4], state.stats

        found = compared(*self.updated("data=1", steps=1, **changes))
        bounds = self.roundings(compared, steps=1, **changes)
        rounding.assert_close(found, (wanted, stats), bounds)

    @pytest.mark.slow
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
        # The same program, which has the same rows in the same places.
        np.testing.assert_array_equal(few.features, found.features[:3])
