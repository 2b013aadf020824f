"""The arguments of a training step by shape, and a check of the step with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from vicreg_jax.augment.crops import Crops
from vicreg_jax.pretrain import mesh as meshes
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.input import Batch
from vicreg_jax.pretrain.input.datasets import in_memory_by_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from vicreg_jax.pretrain.config import Config
    from vicreg_jax.pretrain.step import Programs


def arguments(
    programs: Programs, image: tuple[int, int, int] | None = None
) -> tuple[Any, ...]:
    """Returns the shapes of what ``programs.train`` takes, with their shardings.

    Args:
        programs: The programs of the run.
        image: Height, width and channels of images in memory. None: those of the
            configuration.
    """
    config, rows = programs.config, meshes.by_rows(programs.mesh)

    def struct(dtype, *shape):
        shape = (config.batch, *shape)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

    shapes: Any = {
        "images": _images(config, image, struct),
        # They stay on the host.
        "ids": None,
        "labels": struct(jnp.int32),
        "where": struct(jnp.bool_),
        "aspect": struct(jnp.float32),
    }
    # Through `inputs`, because classifiers also take the labels and the mask.
    return programs.state_shapes, *programs.inputs(Batch(**shapes))


def check_step(programs: Programs, image: tuple[int, int, int]) -> None:
    """Refuses settings and encoders that do not fit, before the run has a directory.

    Args:
        programs: The programs of the run.
        image: Height, width and channels of an image.

    Raises:
        UsageError: If the encoder's features are not as its ``out_features`` says, or
            VICRegL gets views, an encoder or numbers of matches that do not fit.
    """
    state, images, aspect = arguments(programs, image)
    # Before the whole step, whose error would not name `out_features`.
    if programs.own_encoder is not None:
        jax.eval_shape(lambda *shapes: _check(programs, *shapes), state, images, aspect)
    # Traced and not compiled, because the run's directory keeps compiled programs only
    # once it is claimed.
    jax.eval_shape(programs.train, state, images, aspect)


def _check(programs: Programs, state, images, aspect) -> None:
    key = jax.random.key(0)
    view, *_ = programs.config.views.pair(key, images, aspect)
    encoder = programs.network(state).encoder
    features: Any = encoder(view)
    promised = (len(view), encoder.out_features)
    found = getattr(features, "shape", type(features).__name__)
    if found != promised:
        raise UsageError(
            f"`encoder` must return features of shape (batch, out_features), {promised}"
            f", got {found} from {programs.config.encoder_class}"
        )


def _images(
    config: Config, image: tuple[int, int, int] | None, struct: Callable[..., Any]
) -> Any:
    """Returns the shapes of a batch as the host sends it; see `Batch.images`."""
    # By the name of the data, because --compile-only opens no images.
    if in_memory_by_name(config.data) or not config.crops:
        return struct(
            jnp.uint8, *(image or (config.size, config.size, config.channels))
        )
    return tuple(
        Crops(
            struct(jnp.uint8, crop.count, crop.size, crop.size, config.channels),
            struct(jnp.float32, crop.count, 4),
        )
        for crop in config.crops
    )
