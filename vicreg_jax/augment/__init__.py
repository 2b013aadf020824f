"""Random views of a batch of images, made on the device under `jax.jit`."""

from vicreg_jax.augment.digits import DigitViews as DigitViews
from vicreg_jax.augment.images import ImageViews as ImageViews

__all__ = ["DigitViews", "ImageViews"]
