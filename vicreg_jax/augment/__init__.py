"""Random views of a batch of images, made on the device under `jax.jit`.

Two kinds come with the package: `ImageViews` for photographs and `DigitViews` for
handwritten digits. Both follow the protocol `Views`, and so can a class of your own.

The views of image files may also be cropped on the host, from the original pixels, and
finished on the device: see `CroppedViews`.
"""

from vicreg_jax.augment.crops import CenterCrop as CenterCrop
from vicreg_jax.augment.crops import Crops as Crops
from vicreg_jax.augment.crops import RandomCrops as RandomCrops
from vicreg_jax.augment.digits import DigitViews as DigitViews
from vicreg_jax.augment.images import ImageViews as ImageViews
from vicreg_jax.augment.places import Place as Place
from vicreg_jax.augment.views import CroppedViews as CroppedViews
from vicreg_jax.augment.views import LocatedViews as LocatedViews
from vicreg_jax.augment.views import SupervisedViews as SupervisedViews
from vicreg_jax.augment.views import Views as Views

__all__ = [
    "CenterCrop",
    "CroppedViews",
    "Crops",
    "DigitViews",
    "ImageViews",
    "LocatedViews",
    "Place",
    "RandomCrops",
    "SupervisedViews",
    "Views",
]
