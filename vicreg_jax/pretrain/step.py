"""The compiled programs of a run: one training step, and the frozen encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vicreg_jax import VICRegTerms
from vicreg_jax.augment.views import LocatedViews
from vicreg_jax.pretrain import mesh as meshes
from vicreg_jax.pretrain.compilation import compiler_options, options_to_run_seldom
from vicreg_jax.pretrain.config import Config
from vicreg_jax.pretrain.network import EncoderFactory, build, optimizer, schedule
from vicreg_jax.pretrain.objective import (
    Objective,
    objective,
    vicregl_terms,
    view_terms,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int32

    from vicreg_jax.pretrain.input import Batch

    Images = Any  # what the views take: whole images, or crops from the host
    Aspect = Float[Array, " batch"]


class State(NamedTuple):
    """Everything that a step changes, as arrays replicated on every device.

    Attributes:
        step: Number of updates so far, which also seeds the views of the next one.
        params: Parameters of the network by name.
        stats: Running statistics of its batch norms by name.
        optimizer: State of the optimizer.
    """

    step: Int32[Array, ""]
    params: dict[str, Any]
    stats: dict[str, Any]
    optimizer: Any


class Metrics(NamedTuple):
    """The metrics of one step, scalars on the device.

    Attributes:
        loss: Weighted sum of all terms.
        invariance: Invariance of the embeddings, unweighted; see `multiview_terms`.
        variance: Variance term of the embeddings, likewise.
        covariance: Covariance term of the embeddings, likewise.
        std: Standard deviation of the embeddings, averaged over columns and views.
        learning_rate: Learning rate of this step.
        gradient_norm: L2 norm of the gradient of all parameters.
        local_invariance: Invariance of the feature maps, unweighted; see
            `VICRegLTerms`. None, as the next two, for VICReg.
        local_variance: Variance term of the feature maps, likewise.
        local_covariance: Covariance term of the feature maps, likewise.
    """

    loss: Float[Array, ""]
    invariance: Float[Array, ""]
    variance: Float[Array, ""]
    covariance: Float[Array, ""]
    std: Float[Array, ""]
    learning_rate: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    local_invariance: Float[Array, ""] | None = None
    local_variance: Float[Array, ""] | None = None
    local_covariance: Float[Array, ""] | None = None


def compiled(method: Callable) -> cached_property:
    """Compiles a method of `Programs`. Its results are replicated on every device."""

    def program(self: Programs):
        bound = method.__get__(self)
        return jax.jit(bound, out_shardings=meshes.whole(self.mesh))

    # It is kept in the instance's `__dict__`, which a frozen dataclass allows.
    # `slots=True` would break this.
    return cached_property(program)


@dataclass(frozen=True)
class Programs:
    """The programs of a run, compiled when they are first called.

    Attributes:
        config: The configuration of the run.
        mesh: The devices. Batches are sharded over all axes.
        steps_per_epoch: Sets the schedule of the learning rate.
        own_encoder: Makes the encoder, if it was given in Python.
    """

    config: Config
    mesh: Mesh
    steps_per_epoch: int
    own_encoder: EncoderFactory | None = field(default=None, kw_only=True)

    def start(self) -> State:
        """Returns the state before the first step."""
        return self._start()

    @cached_property
    def state_shapes(self) -> State:
        """The state's shapes, dtypes and shardings, as `ShapeDtypeStruct`."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=meshes.whole(self.mesh)
            ),
            jax.eval_shape(self._initial),
        )

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Returns what `train` takes of a batch, after the state."""
        return batch.images, batch.aspect

    @cached_property
    def train(self):
        """``(state, images, aspect) -> (state, metrics)``, one training step.

        The old state is donated, so it cannot be used afterwards. `metrics` is a
        `Metrics`.
        """
        return self._updating(self._train)

    @cached_property
    def embed(self):
        """``(state, images, aspect) -> embeddings``, of both views, as in training.

        The embeddings have the shape ``(2, batch, dim)``.
        """
        return self._run_seldom(self._embed)

    def _embed(self, state: State, images: Images, aspect: Aspect):
        key = self._key(state)
        pair = self.config.views.pair(key, images, aspect)
        model = self.network(state)
        # Not `model(view)`, which also returns a feature map if it is a `VICRegL`.
        return jnp.stack([model.expander(model.encoder(view)) for view in pair])

    @compiled
    def encode(self, state: State, images: Images, aspect: Aspect, labels, where):
        """Returns the features of the frozen encoder, labels and mask.

        Labels and mask are returned as they are, so that every process gets those of
        all rows.
        """
        model = self.network(state)
        model.eval()
        plain = self.config.views.plain(images, aspect)
        return model.encoder(plain), labels, where

    @compiled
    def with_statistics(self, state: State, images: Images, aspect: Aspect) -> State:
        """Returns the state with updated batch-norm statistics.

        The encoder sees the images without random augmentation, as the probes do.
        """
        model = self.network(state)
        # In train mode, in which batch norms update their running statistics.
        model.encoder(self.config.views.plain(images, aspect))
        stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return state._replace(stats=stats)

    @cached_property
    def rate(self) -> optax.Schedule:
        """The learning rate as a function of the step."""
        return schedule(self.config, self.steps_per_epoch)

    def _updating(self, step: Callable):
        """Returns a compiled step, which donates the old state."""
        return jax.jit(
            step,
            donate_argnums=0,
            # The compiler could choose others, and the compiled step takes a state only
            # with the shardings that it was compiled for.
            out_shardings=meshes.whole(self.mesh),
            compiler_options=compiler_options(self.mesh),
        )

    def _run_seldom(self, function: Callable):
        """Returns a compiled function, which takes longer to compile than to run."""
        return jax.jit(
            function,
            out_shardings=meshes.whole(self.mesh),
            compiler_options=options_to_run_seldom(self.mesh),
        )

    def network(self, state: State):
        """Returns the network with the parameters of `state`."""
        return self._merged(state.params, state.stats, self._key(state))

    def _merged(self, params, stats, key):
        """Returns the network, whose drop path and dropout draw from `key`.

        Nothing random is kept between steps, so that a resumed run draws the same.
        """
        # The views take the keys that are folded with small numbers.
        key = jax.random.fold_in(key, 2**32 - 1)
        streams = nnx.to_pure_dict(nnx.state(self._shapes, nnx.RngState))
        leaves, tree = jax.tree.flatten(streams)
        # A stream is a key and a count of the keys drawn from it.
        fresh = [
            jax.random.split(jax.random.fold_in(key, at), leaf.shape)
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jnp.zeros(leaf.shape, leaf.dtype)
            for at, leaf in enumerate(leaves)
        ]
        return nnx.merge(self._graph, params, stats, tree.unflatten(fresh))

    def _key(self, state: State):
        """Returns the random key of a step, which the views are drawn from."""
        return jax.random.fold_in(jax.random.key(self.config.seed), state.step)

    @cached_property
    def _shapes(self):
        model = nnx.eval_shape(lambda: build(self.config, self.own_encoder))
        # The graph keeps the mode, so `_merged` makes networks in train mode.
        model.train()
        return model

    @cached_property
    def _graph(self):
        return nnx.graphdef(self._shapes)

    @cached_property
    def _optimizer(self):
        return optimizer(self.config, self.rate)

    @cached_property
    def _start(self):
        # Compiled, so that every device makes its own copy.
        return self._run_seldom(self._initial)

    def _initial(self) -> State:
        """Returns `start`'s arrays, on any device. `state_shapes` traces it."""
        network = build(self.config, self.own_encoder)
        _, params, stats, _ = nnx.split(network, nnx.Param, nnx.BatchStat, ...)
        params = nnx.to_pure_dict(params)
        return State(
            step=jnp.zeros((), jnp.int32),
            params=params,
            stats=nnx.to_pure_dict(stats),
            optimizer=self._optimizer.init(params),
        )

    def _train(self, state: State, images: Images, aspect: Aspect):
        key = self._key(state)
        # Drawn outside the loss, so that what `_embeddings` computes again is the
        # network alone.
        views, places = self._drawn(key, images, aspect)

        def loss(params):
            outputs, stats = self._embeddings(params, state.stats, views, key)
            found = self._objective(outputs, places)
            return found.loss, (found, stats)

        (_, (found, stats)), gradients = jax.value_and_grad(loss, has_aux=True)(
            state.params
        )
        updates, moments = self._optimizer.update(
            gradients, state.optimizer, state.params
        )
        metrics = Metrics(
            found.loss,
            *found.of_views,
            std=found.std,
            learning_rate=jnp.asarray(self.rate(state.step)),
            gradient_norm=optax.tree.norm(gradients),
        )
        if found.of_maps is not None:
            local = found.of_maps._asdict()
            metrics = metrics._replace(**{f"local_{k}": v for k, v in local.items()})
        params: Any = optax.apply_updates(state.params, updates)
        return State(state.step + 1, params, stats, moments), metrics

    def _drawn(self, key, images: Images, aspect: Aspect):
        """Returns all views of each image, and their places where they are known."""
        views = self.config.views
        if isinstance(views, LocatedViews):
            return views.located(key, images, aspect)
        return views.pair(key, images, aspect), None

    def _embeddings(self, params, stats, views, key):
        """Returns the network's output for each view, and new batch-norm statistics.

        With ``accumulate > 1`` the batch passes the network in parts, and the loss is
        that of the whole batch. Each part is computed again for its gradient, so that
        activations are kept for one part at a time.
        """

        # The losses of the parts do not add up to that of the batch, because variance
        # and covariance are not means over rows. So all embeddings must meet.
        @jax.checkpoint
        def part(stats, drawn):
            key, *views = drawn
            return self._both(params, stats, views, key)

        parts = self.config.accumulate
        # Without `jax.checkpoint`, which would compute the forward pass twice.
        if parts == 1:
            stats, outputs = self._both(params, stats, views, key)
            return outputs, stats
        by_part = NamedSharding(self.mesh, P(None, self.mesh.axis_names))
        # Consecutive rows go to different parts, so that each device keeps its rows.
        views = (v.reshape(-1, parts, *v.shape[1:]).swapaxes(0, 1) for v in views)
        views = (jax.lax.with_sharding_constraint(v, by_part) for v in views)
        keys = jax.random.split(key, parts)
        stats, outputs = jax.lax.scan(part, stats, (keys, *views))

        def joined(z):
            return z.swapaxes(0, 1).reshape(-1, *z.shape[2:])

        return jax.tree.map(joined, outputs), stats

    def _both(self, params, stats, views, key):
        model = self._merged(params, stats, key)
        # One pass for each view, so that batch norm uses the statistics of each view,
        # as in the paper. Under `jit` these are means over the rows of all devices, as
        # SyncBatchNorm's are in the official code.
        outputs = tuple(model(view) for view in views)
        return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), outputs

    def _objective(self, outputs, places) -> Objective:
        config = self.config
        if config.alpha is None:
            return objective(config, outputs, self._terms(*outputs), None)
        terms = vicregl_terms(config.location_matches, self.mesh, outputs, places)
        embeddings, _ = zip(*outputs, strict=True)
        return objective(config, embeddings, *terms)

    def _terms(self, *embeddings) -> VICRegTerms:
        return view_terms(self.mesh, *embeddings)
