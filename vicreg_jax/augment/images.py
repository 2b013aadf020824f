"""Random views of photographs: the recipe of the VICReg paper and its relatives."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from vicreg_jax.augment import _color, _settings, _space
from vicreg_jax.augment._batch import prepare, shard_like
from vicreg_jax.augment.crops import CenterCrop, Crops, RandomCrops
from vicreg_jax.augment.places import Place

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, PRNGKeyArray

    from vicreg_jax.augment._batch import Aspect, Images, View

_OPERATIONS = 6  # crop, flip, jitter, gray, blur, solarize


@dataclass(frozen=True)
class ImageViews:
    """Random crops, flips and color changes, drawn independently for every view.

    The defaults are the symmetric augmentation of appendix C.1 of arXiv:2105.04906.
    `blur` and `solarize` have one probability for the first view and one for the
    second. Local views, which VICRegL and multi-crop training add to the two, take
    turns with both.

    Example:
        >>> images = jax.random.bits(jax.random.key(0), (2, 64, 48, 3), "uint8")
        >>> draw = jax.jit(ImageViews(size=32).pair)
        >>> first, second = draw(jax.random.key(1), images)
        >>> first.shape, first.dtype.name
        ((2, 32, 32, 3), 'float32')
    """

    size: int = 224
    """Height and width of the views in pixels."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest fraction of the image's area that a view shows."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width over height of the part that a view shows."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    jitter: float = 0.8
    """Probability of a change of brightness, contrast, saturation and hue."""
    brightness: float = 0.4
    """Largest difference of the brightness factor from 1."""
    contrast: float = 0.4
    """Largest difference of the contrast factor from 1."""
    saturation: float = 0.2
    """Largest difference of the saturation factor from 1."""
    hue: float = 0.1
    """Largest rotation of the hue in either direction, in turns, at most 0.5."""
    gray: float = 0.2
    """Probability of a grayscale view."""
    blur: tuple[float, float] = (0.5, 0.5)
    """Probability of a Gaussian blur."""
    sigma: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest standard deviation of the blur, in pixels of the view."""
    solarize: tuple[float, float] = (0.1, 0.1)
    """Probability of solarization, which inverts values from 0.5 up."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from each channel. With one channel, the average of the three is."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Divides each channel. With one channel, the average of the three does."""
    center: float = 0.875
    """Side of the centered square that probes see, as a fraction of the shorter side.
    0.875 is 224 of 256 pixels."""
    local_views: int = 0
    """Number of local views, small crops beside the first two; see `located`."""
    local_size: int = 96
    """Height and width of the local views in pixels."""
    local_scale: tuple[float, float] = (0.08, 0.4)
    """Smallest and largest fraction of the image's area that a local view shows, as in
    the authors' VICRegL; lightly has 0.05 and 0.2."""
    follow_flips: bool = True
    """Whether positions follow flips. The authors' VICRegL ignores flips by default,
    which matches cells of a mirrored view with those on the other side."""

    def __post_init__(self):
        """Checks the settings."""
        _settings.check_size("size", self.size)
        _settings.check_size("local_size", self.local_size)
        _settings.check_not_negative("local_views", self.local_views)
        for name in ("flip", "jitter", "gray", "blur", "solarize"):
            value = getattr(self, name)
            _settings.check_between(name, value, 0, 1, "a probability")
        for name in ("brightness", "contrast", "saturation"):
            _settings.check_not_negative(name, getattr(self, name))
        _settings.check_between("hue", self.hue, 0, 0.5, "from 0 to 0.5")
        _settings.check_center(self.center)
        _settings.check_between("std", self.std, _settings.TINY, math.inf, "above 0")
        for name in ("scale", "local_scale"):
            _settings.check_range(name, getattr(self, name), 1)
        _settings.check_range("ratio", self.ratio, math.inf)
        _settings.check_range("sigma", self.sigma, math.inf)

    @classmethod
    def official(cls, **changes) -> ImageViews:
        """Returns the asymmetric augmentation of the authors' code, which is BYOL's.

        The first view is always blurred and never solarized. The second view is rarely
        blurred, and solarized with probability 0.2.

        Args:
            **changes: Other fields of the class.
        """
        # In a second step, because `cls` would refuse a second `blur` from the changes.
        byol = cls(blur=(1.0, 0.1), solarize=(0.0, 0.2))
        return dataclasses.replace(byol, **changes)

    def __call__(
        self,
        key: PRNGKeyArray,
        images: Images | tuple[Crops, ...],
        aspect: Aspect | None = None,
        *,
        view: int = 0,
    ) -> View:
        """Returns one random view of each image.

        Args:
            key: The only source of randomness.
            images: uint8, or float in [0, 1], with 1 or 3 channels; or what was cut
                from them by `crops`.
            aspect: Width over height of each original image, if `images` were resized
                to another aspect ratio. None: that of `images`.
            view: 0 for the first view, 1 for the second, more for a local view.

        Returns:
            float32, normalized by `mean` and `std`.

        Raises:
            TypeError: If `images` is neither uint8 nor float.
            ValueError: If a shape is wrong.
        """
        return self._drawn(key, images, aspect, view)[0]

    def finish(
        self, key: PRNGKeyArray, crops: Images, *, view: int = 0
    ) -> tuple[View, Bool[Array, " batch"]]:
        """Returns one random view of each crop: all of `__call__` but the crop.

        Args:
            key: The only source of randomness.
            crops: uint8, or float in [0, 1], of any size, with 1 or 3 channels.
            view: As for `__call__`.

        Returns:
            The views, float32, normalized by `mean` and `std`; and which of them are
            mirrored, left and right exchanged.

        Raises:
            TypeError: If `crops` is neither uint8 nor float.
            ValueError: If a shape is wrong.
        """
        pixels, _ = prepare(crops, None)
        keys = shard_like(pixels, jax.random.split(key, len(pixels)))
        drawn, mirrored = jax.vmap(partial(self._finish, view=view))(keys, pixels)
        # Last, because the operations on colors are defined for [0, 1].
        return self._normalize(drawn), mirrored

    @property
    def crops(self) -> tuple[RandomCrops, ...]:
        """What to cut from the original images for `pair` and `located`."""
        # An item for each size, because an array holds crops of one size.
        crops = [RandomCrops(2, self.size, self.scale, self.ratio)]
        if self.local_views:
            local = self.local_views, self.local_size, self.local_scale, self.ratio
            crops.append(RandomCrops(*local))
        return tuple(crops)

    @property
    def plain_crops(self) -> tuple[CenterCrop, ...]:
        """What to cut from the original images for `plain`."""
        return (CenterCrop(self.size, self.center),)

    def pair(
        self,
        key: PRNGKeyArray,
        images: Images | tuple[Crops, ...],
        aspect: Aspect | None = None,
    ) -> tuple[View, View]:
        """Returns the first and the second view of each image; see `__call__`.

        Args:
            key: The only source of randomness.
            images: As for `__call__`.
            aspect: As for `__call__`.
        """
        first, second = self._keys(key)[:2]
        return (
            self(first, images, aspect, view=0),
            self(second, images, aspect, view=1),
        )

    def located(
        self,
        key: PRNGKeyArray,
        images: Images | tuple[Crops, ...],
        aspect: Aspect | None = None,
    ) -> tuple[tuple[View, ...], tuple[Place, ...]]:
        """Returns all views of each image, and where they lie in it.

        Args:
            key: As for `pair`.
            images: As for `pair`.
            aspect: As for `pair`. None with crops: 1.

        Returns:
            The views of `pair` and then the local views, and the place of each.

        Raises:
            TypeError: As for `__call__`.
            ValueError: As for `__call__`.
        """
        drawn = [
            self._drawn(view_key, images, aspect, view)
            for view, view_key in enumerate(self._keys(key))
        ]
        views, places = zip(*drawn, strict=True)
        return views, places

    def plain(
        self, images: Images | tuple[Crops, ...], aspect: Aspect | None = None
    ) -> View:
        """Returns the center of each image, normalized; see `center`.

        Args:
            images: As for `__call__`; or what was cut from them by `plain_crops`.
            aspect: As for `__call__`.
        """
        if isinstance(images, tuple):
            (middles,) = images
            return self._normalize(prepare(jnp.asarray(middles.pixels[:, 0]), None)[0])
        pixels, aspect = prepare(images, aspect)

        def middle(image, aspect):
            box = _space.central_box(aspect, self.center)
            return _space.crop(image, box, self.size)

        return self._normalize(jax.vmap(middle)(pixels, aspect))

    def crops_only(self) -> ImageViews:
        """Returns views with the same crops and flips, but colors as they are."""
        off = {"jitter": 0.0, "gray": 0.0, "blur": (0.0, 0.0), "solarize": (0.0, 0.0)}
        return dataclasses.replace(self, **off)

    def _keys(self, key):
        # For all views, so that `pair` draws the first two of `located`.
        return jax.random.split(key, 2 + self.local_views)

    def _drawn(self, key, images, aspect, view) -> tuple[View, Place]:
        if isinstance(images, tuple):
            # In the order of `crops`: both views of the pair, then the local views.
            crops, at = (images[1], view - 2) if view > 1 else (images[0], view)
            drawn, mirrored = self.finish(
                key, jnp.asarray(crops.pixels[:, at]), view=view
            )
            box = jnp.moveaxis(jnp.asarray(crops.boxes, jnp.float32)[:, at], 1, 0)
            if aspect is None:
                aspect = jnp.ones(len(drawn), jnp.float32)
        else:
            pixels, aspect = prepare(images, aspect)
            keys = shard_like(pixels, jax.random.split(key, len(pixels)))
            draw = jax.vmap(partial(self._view, view=view))
            box, drawn, mirrored = draw(keys, pixels, aspect)
            drawn = self._normalize(drawn)
        flipped = mirrored & self.follow_flips
        return drawn, Place(*box, aspect=aspect, flipped=flipped)

    def _view(self, key, image, aspect, view):
        is_local = view > 1
        scale = self.local_scale if is_local else self.scale
        size = self.local_size if is_local else self.size
        box_key = jax.random.split(key, _OPERATIONS)[0]
        box = _space.random_box(box_key, aspect, scale=scale, ratio=self.ratio)
        return box, *self._finish(key, _space.crop(image, box, size), view)

    def _finish(self, key, image, view):
        # The order of operations is that of appendix C.1 and of the authors' code.
        # Each operation has a key of its own, so that a change of one probability does
        # not change what the other operations draw. The first key is the crop's.
        _, flip_key, jitter_key, gray_key, blur_key, solarize_key = jax.random.split(
            key, _OPERATIONS
        )
        # The same as `_maybe` draws, from the same key.
        mirrored = _happens(flip_key, self.flip)
        image = _maybe(flip_key, self.flip, _space.flip, image)
        change, draw = jax.random.split(jitter_key)
        image = _maybe(change, self.jitter, lambda x: self._jitter(draw, x), image)
        image = _maybe(gray_key, self.gray, _gray, image)
        change, draw = jax.random.split(blur_key)
        blur, solarize = self.blur[view % 2], self.solarize[view % 2]
        image = _maybe(change, blur, lambda x: self._blur(draw, x), image)
        image = _maybe(solarize_key, solarize, _color.solarize, image)
        return image, mirrored

    def _jitter(self, key, image):
        factor_key, turn_key, order_key = jax.random.split(key, 3)
        strength = jnp.array(
            [self.brightness, self.contrast, self.saturation], jnp.float32
        )
        # At least 0, as in torchvision's ColorJitter. Strengths above 1 would allow
        # negative factors, which invert the image.
        factors = jax.random.uniform(
            factor_key,
            (3,),
            jnp.float32,
            minval=jnp.maximum(0, 1 - strength),
            maxval=1 + strength,
        )
        turns = jax.random.uniform(
            turn_key, (), jnp.float32, minval=-self.hue, maxval=self.hue
        )
        order = jax.random.permutation(order_key, 4)
        return _color.jitter(image, factors, turns, order)

    def _blur(self, key, image):
        least, largest = self.sigma
        sigma = jax.random.uniform(key, (), jnp.float32, minval=least, maxval=largest)
        # Shapes are static, so the radius is that of the largest sigma for every image.
        # At four standard deviations the kernel is 3e-4 of its peak.
        return _space.blur(image, sigma, radius=math.ceil(4 * largest))

    def _normalize(self, images):
        mean, std = self._moments(images)
        return (images - mean) / std

    def unnormalized(self, views: jax.Array) -> jax.Array:
        """Returns normalized views in [0, 1] again, but for rounding.

        Args:
            views: Shape ``(..., height, width, channels)``, with 1 or 3 channels.
        """
        mean, std = self._moments(views)
        return views * std + mean

    def _moments(self, images):
        mean, std = (jnp.array(x, jnp.float32) for x in (self.mean, self.std))
        # Gray images have one channel, and the mean over the colors.
        return (mean, std) if images.shape[-1] == 3 else (mean.mean(), std.mean())


def _maybe(key, probability, change, image):
    """Applies `change` with a probability. If that is 0, it is not compiled at all."""
    if probability == 0:
        return image
    # Without the barrier, XLA fuses the operation with the previous ones and computes a
    # pixel again each time it is read. A view took 27 ms on two CPU cores without the
    # barrier and 12 ms with it.
    image = jax.lax.optimization_barrier(image)
    # Under `jax.vmap`, `jax.lax.cond` would compute both branches as well.
    return jnp.where(_happens(key, probability), change(image), image)


def _happens(key, probability):
    # With a dtype, so that the same is drawn where float64 is switched on.
    return jax.random.bernoulli(key, jnp.float32(probability))


def _gray(image):
    return jnp.broadcast_to(_color.gray(image), image.shape)
