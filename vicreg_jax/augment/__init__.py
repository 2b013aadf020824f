"""Random views of a batch of images, made on the device under `jax.jit`.

Two kinds come with the package: `ImageViews` for photographs and `DigitViews` for
handwritten digits. Both follow the protocol `Views`, and so can a class of your own.
"""

from vicreg_jax.augment.digits import DigitViews as DigitViews
from vicreg_jax.augment.images import ImageViews as ImageViews
from vicreg_jax.augment.places import Place as Place
from vicreg_jax.augment.views import LocatedViews as LocatedViews
from vicreg_jax.augment.views import Views as Views

__all__ = ["DigitViews", "ImageViews", "LocatedViews", "Place", "Views"]
