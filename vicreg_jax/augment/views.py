"""The protocol of all views, and that of views with positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray

    from vicreg_jax.augment._batch import Aspect, Images, View
    from vicreg_jax.augment.crops import CenterCrop, RandomCrops


@runtime_checkable
class Views(Protocol):
    """How a batch of images becomes the views that a network is trained on.

    `DigitViews` and `ImageViews` follow this protocol. To pretrain with views of your
    own, write a frozen dataclass with these three members and pass an instance of it
    as ``Config(views=...)``. It needs no base class. Its fields are its settings,
    which the directory of a run stores.

    Runs with more than two views, and VICRegL, need `LocatedViews`. Classifiers on
    crops need `SupervisedViews`. If views have the method ``unnormalized(views)``,
    which returns their pixels in [0, 1], views.png shows the colors of the images.

    Example:
        >>> from dataclasses import dataclass
        >>> import jax, jax.numpy as jnp
        >>> @dataclass(frozen=True)
        ... class NoisyViews:
        ...     size: int = 28
        ...     noise: float = 0.1
        ...
        ...     def pair(self, key, images, aspect):
        ...         plain = self.plain(images, aspect)
        ...         noise = jax.random.normal(key, (2, *plain.shape)) * self.noise
        ...         return plain + noise[0], plain + noise[1]
        ...
        ...     def plain(self, images, aspect):
        ...         return images.astype(jnp.float32) / 255
        >>> isinstance(NoisyViews(), Views)
        True
    """

    @property
    def size(self) -> int:
        """Height and width of a view in pixels, the network's input size."""
        ...

    def pair(
        self, key: PRNGKeyArray, images: Images, aspect: Aspect
    ) -> tuple[View, View]:
        """Returns two random views of each image.

        Args:
            key: The only source of randomness.
            images: uint8, or float in [0, 1], shape ``(batch, height, width,
                channels)`` with 1 or 3 channels.
            aspect: Width over height of each original image, shape ``(batch,)``,
                float32. Images may have been resized to a square since.

        Returns:
            Two arrays of shape ``(batch, size, size, channels)``, float32.
        """
        ...

    def plain(self, images: Images, aspect: Aspect) -> View:
        """Returns the view of each image that probes evaluate, without randomness.

        Args:
            images: As for `pair`.
            aspect: As for `pair`.

        Returns:
            Shape ``(batch, size, size, channels)``, float32.
        """
        ...

    # By default, a protocol with an attribute refuses `issubclass`, which tyro needs
    # to offer the fields of the default instance as flags.
    @classmethod
    def __subclasshook__(cls, other: type, /) -> bool:
        """Returns whether a class follows the protocol."""
        # A subclass inherits this hook, but may ask for more than `Views` does.
        return follows_protocol(other) if cls is Views else NotImplemented


@runtime_checkable
class LocatedViews(Protocol):
    """Views that know where they lie in their images.

    `ImageViews` follows this protocol beside `Views`. VICRegL and training with more
    than two views need both; all other runs need `Views` only.
    """

    def located(
        self, key: PRNGKeyArray, images: Images, aspect: Aspect
    ) -> tuple[tuple[Float[Array, "batch _ _ channels"], ...], tuple[Any, ...]]:
        """Returns two or more views of each image, and where they lie.

        Args:
            key: As for `Views.pair`.
            images: As for `Views.pair`.
            aspect: As for `Views.pair`.

        Returns:
            The views of `Views.pair` and then smaller ones of any size; and the place
            of each view, an object with the method ``cells(rows, columns)`` of `Place`.
        """
        ...


@runtime_checkable
class CroppedViews(Protocol):
    """Views whose crops the host can cut from the original pixels of image files.

    These are `Views` with two more members. Their `pair` and `plain` take whole images,
    or a tuple with one `Crops` for each item of `crops` or `plain_crops`, and finish
    them on the device. So does `LocatedViews.located` where they have it.
    """

    @property
    def crops(self) -> tuple[RandomCrops, ...]:
        """What to cut from the original images for `pair`."""
        ...

    @property
    def plain_crops(self) -> tuple[CenterCrop, ...]:
        """What to cut from the original images for `plain`."""
        ...


@runtime_checkable
class SupervisedViews(Protocol):
    """Views that can leave out all random changes but crops and flips.

    Classifiers are trained on such views. `ImageViews` and `DigitViews` follow this
    protocol beside `Views`.
    """

    def crops_only(self) -> Views:
        """Returns views with the same crops and flips, and no other change."""
        ...


def cropped_on(crop: str, views: Views) -> CroppedViews | None:
    """Returns the views if `crop` is "host" and they can be cropped there."""
    found: object = views
    return found if crop == "host" and isinstance(found, CroppedViews) else None


def follows_protocol(views_class: type) -> bool:
    """Returns whether a class has the members of `Views`."""
    methods = (getattr(views_class, name, None) for name in ("pair", "plain"))
    # A field without a default is no attribute of its class.
    fields = getattr(views_class, "__dataclass_fields__", {})
    has_size = "size" in fields or hasattr(views_class, "size")
    return has_size and all(callable(method) for method in methods)
