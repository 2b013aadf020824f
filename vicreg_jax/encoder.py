"""A pretrained encoder in one file: its weights, architecture and preprocessing.

encoder = load_encoder("runs/photos")          # or a safetensors file
features = encoder.embed(["a.jpg", "b.png"])   # (2, width), float32
encoder.model                                  # the Flax module
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from flax import nnx
from safetensors import SafetensorError, safe_open

import vicreg_jax
from vicreg_jax.augment import CenterCrop, Crops, ImageViews, Views
from vicreg_jax.augment.crops import TRIES
from vicreg_jax.augment.stored import views_from_json, views_to_json
from vicreg_jax.augment.views import cropped_on
from vicreg_jax.convert import (
    load_convnext,
    load_resnet,
    load_state_dict,
    load_vit,
    read,
    state_dict,
    write,
)
from vicreg_jax.decode import decode, decode_crops
from vicreg_jax.nn import ENCODERS, build_encoder

if TYPE_CHECKING:
    from jaxtyping import Float

Images: TypeAlias = "str | Path | PIL.Image.Image | np.ndarray | Iterable[Any]"
_NO_NUMBERS = [np.zeros((1, TRIES, 4))]  # a centered crop is not random
FILE = "encoder.safetensors"
_PLAIN_SIZE = 256  # torchvision resizes shorter sides to it, and crops 224
# The metadata of safetensors holds only strings, so all facts are one JSON text.
_KEY = "vicreg_jax"
# What every file has. `crop` is missing in older ones.
_STORED = {
    "architecture": dict,
    "views": dict,
    "size": int,
    "channels": int,
    "about": dict,
}


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder with its preprocessing.

    Attributes:
        model: The Flax module in eval mode: views in, features out.
        views: The views it was trained with. ``views.plain`` is its preprocessing.
        size: Side of the square that image files are decoded to, unless they are
            cropped on the host.
        channels: 3 for RGB, 1 for grayscale.
        about: Further facts from its file: architecture, data, step, package version.
        crop: Where ``views.plain`` crops image files, as in `Config`.
    """

    model: nnx.Module = field(repr=False)
    views: Views
    size: int
    channels: int
    about: dict[str, Any] = field(default_factory=dict)
    crop: Literal["host", "device"] = "host"

    @property
    def plain_crops(self) -> tuple[CenterCrop, ...]:
        """What the host cuts from image files. Empty: whole squares are decoded."""
        views = cropped_on(self.crop, self.views)
        return views.plain_crops if views else ()

    def embed(
        self,
        images: Images,
        *,
        aspect: Float[np.ndarray, " images"] | None = None,
        batch: int = 256,
    ) -> Float[np.ndarray, "images features"]:
        """Returns the features of images, exactly as the probes of a run see them.

        Args:
            images: A path, a PIL image, a uint8 array of shape ``(images, height,
                width, channels)`` or ``(images, height, width)``, or an iterable of
                paths and PIL images. Arrays are not resized before ``views.plain``. Or
                a batch of what `plain_crops` cut: a tuple of `Crops`.
            aspect: For an array only, width over height of each image before it was
                resized to the array's shape. None: that of the array.
            batch: How many images pass the network at once.

        Returns:
            float32, one row for each image.

        Raises:
            TypeError: If an array is not uint8, or an item is not an image.
            ValueError: If an array has another shape or number of channels, `aspect`
                does not fit the images, or `batch` is below 1.
            UnreadableError: If a file cannot be decoded.
        """
        if batch < 1:
            raise ValueError(f"`batch` must be at least 1, got {batch}")
        parts = [self._features(*part) for part in self._batches(images, aspect, batch)]
        if not parts:
            raise ValueError("`images` must hold at least one image, got none")
        return np.concatenate(parts)

    def _batches(
        self, images, aspect, batch
    ) -> Iterator[tuple[np.ndarray | tuple[Crops, ...], np.ndarray]]:
        if isinstance(images, np.ndarray | jax.Array):
            pixels = self._checked(np.asarray(images))
            if aspect is None:
                aspect = np.full(len(pixels), pixels.shape[2] / pixels.shape[1])
            aspect = _checked_aspect(aspect, len(pixels))
            for at in range(0, len(pixels), batch):
                yield pixels[at : at + batch], aspect[at : at + batch]
            return
        if aspect is not None:
            raise ValueError(
                "`aspect` must be None if `images` is not an array, got an array"
            )
        # Before iterables, since a tuple is one.
        if isinstance(images, tuple) and images and isinstance(images[0], Crops):
            rows = len(images[0].pixels)
            for at in range(0, rows, batch):
                part = jax.tree.map(lambda array, at=at: array[at : at + batch], images)
                yield part, np.ones(min(batch, rows - at), np.float32)
            return
        # A string is an iterable too, of its characters.
        items = [images] if isinstance(images, str | Path | PIL.Image.Image) else images
        decoded = []
        for item in items:
            decoded.append(self._decoded(item))
            if len(decoded) == batch:
                yield _stacked(decoded)
                decoded = []
        if decoded:
            yield _stacked(decoded)

    def _decoded(self, item):
        if isinstance(item, str | Path):
            item = Path(item)
        elif not isinstance(item, PIL.Image.Image):
            raise TypeError(
                "`images` must hold paths or PIL images, or be a uint8 array, got "
                f"{type(item).__name__}"
            )
        if crops := self.plain_crops:
            return decode_crops(item, crops, _NO_NUMBERS, channels=self.channels)
        return decode(item, size=self.size, channels=self.channels)

    def _checked(self, pixels):
        if pixels.dtype != np.uint8:
            raise TypeError(f"`images` must be uint8, got {pixels.dtype}")
        pixels = pixels[..., None] if pixels.ndim == 3 else pixels
        if pixels.ndim != 4 or pixels.shape[-1] != self.channels:
            raise ValueError(
                f"`images` must have shape (images, height, width, {self.channels}), "
                f"got {pixels.shape}"
            )
        return pixels

    def _features(self, images, aspect):
        # Padded to a power of two, so that few sizes are compiled. In eval mode images
        # do not affect each other, so the padding does not change the features.
        rows = len(aspect)
        padding = (1 << (rows - 1).bit_length()) - rows
        padded = jax.tree.map(
            lambda array: np.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1)),
            images,
        )
        # Crops divide by the aspect ratio.
        aspect = np.pad(aspect, (0, padding), constant_values=1)
        return np.asarray(self._encode(padded, aspect))[:rows]

    @cached_property
    def _encode(self):
        graph, state = nnx.split(self.model)

        @jax.jit
        def encode(state, images, aspect):
            features = nnx.merge(graph, state)(self.views.plain(images, aspect))
            # A model of the user's own may return bfloat16, which NumPy itself lacks.
            return features.astype(jnp.float32)

        return lambda images, aspect: encode(state, images, aspect)


def save_encoder(
    path: str | Path,
    model: nnx.Module,
    *,
    architecture: dict[str, Any],
    views: Views,
    size: int,
    channels: int,
    crop: Literal["host", "device"] = "host",
    **about: Any,
) -> None:
    """Writes an encoder to a safetensors file that `load_encoder` reads.

    The tensors have PyTorch's names and layout: those of torchvision for a ResNet, of
    timm for a ConvNeXt or a ViT.

    Args:
        path: The file. It must end in .safetensors.
        model: The encoder.
        architecture: ``name``, a class of `vicreg_jax.nn`, and its arguments. Another
            name is stored, but to load the file again, the module must be given.
        views: The views it was trained with.
        size: Side of the square that image files are decoded to.
        channels: 3 for RGB, 1 for grayscale.
        crop: Where the views crop image files, as in `Config`.
        about: Anything else worth knowing, as JSON has it.

    Raises:
        ValueError: If `path` does not end in .safetensors, or `views` cannot be stored.
    """
    description = {
        "architecture": architecture,
        "views": views_to_json(views),
        "size": size,
        "channels": channels,
        "crop": crop,
        "about": {"package": f"vicreg_jax {vicreg_jax.__version__}"} | about,
    }
    write(path, state_dict(model), metadata={_KEY: json.dumps(description)})


def load_encoder(path: str | Path, model: nnx.Module | None = None) -> Encoder:
    """Returns the encoder of a run or of a file.

    Args:
        path: The directory of a run, whose ``encoder.safetensors`` is read; a file that
            `save_encoder` or ``vicreg-pretrain export`` wrote; or a ResNet in
            torchvision's names, a ConvNeXt or a ViT in timm's, which get ImageNet's
            preprocessing.
        model: For an encoder of your own class, a module of the same structure. Its
            parameters are overwritten. The tensors must have its names and shapes.
            Settings that no shape shows, such as strides or the number of heads, are
            those of the module; they are not compared with those in the file.

    Raises:
        ValueError: If there is no such file, or it is damaged, holds no encoder or one
            that does not fit `model`, or has a class that is not one of `vicreg_jax.nn`
            while `model` is None.
    """
    path = Path(path)
    if path.is_dir():
        path = _file_of_run(path)
    if not path.is_file():
        raise ValueError(f"`path` must be a file or a run, got {path}")
    description = _description(path)
    if description is None:
        return _of_weights(path, model)
    tensors = read(path)
    model = _built(description["architecture"], path) if model is None else model
    load_state_dict(model, tensors)
    model.eval()
    about = description["about"] | {"architecture": description["architecture"]}
    return Encoder(
        model,
        views_from_json(description["views"]),
        description["size"],
        description["channels"],
        about,
        # Before there was a choice, crops were cut on the devices.
        description.get("crop", "device"),
    )


def _checked_aspect(aspect, images: int) -> np.ndarray:
    aspect = np.asarray(aspect, np.float32)
    if aspect.shape != (images,):
        raise ValueError(f"`aspect` must have shape ({images},), got {aspect.shape}")
    return aspect


def _stacked(decoded) -> tuple[np.ndarray | tuple[Crops, ...], np.ndarray]:
    images, aspect = zip(*decoded, strict=True)
    stacked = jax.tree.map(lambda *parts: np.stack(parts), *images)
    return stacked, np.array(aspect, np.float32)


def _file_of_run(run: Path) -> Path:
    if not (run / FILE).exists():
        config = run / "config.json"
        if config.exists() and "protocol" in json.loads(config.read_text()):
            raise ValueError(
                f"`path` must be a pretraining run, got {run}, which holds a classifier"
            )
        raise ValueError(
            f"`path` must be a run with an {FILE}, got {run}. A run writes it when it "
            f"is finished; before, `vicreg-pretrain export {run}` does"
        )
    return run / FILE


def _of_weights(path: Path, model: nnx.Module | None) -> Encoder:
    """Returns the encoder of a file with PyTorch's tensors alone, in `model` if any."""
    tensors, size = read(path), ImageViews().size
    # By the ends of names, because a checkpoint may have a prefix. All else goes to
    # `load_resnet`, whose error lists the names.
    if any(name.endswith("patch_embed.proj.weight") for name in tensors):
        found = load_vit(tensors)
        size = found.image_size
    elif any(name.endswith(("conv_dw.weight", "dwconv.weight")) for name in tensors):
        found = load_convnext(tensors)
    else:
        found = load_resnet(tensors)
    views = ImageViews(size=size)
    # By default files are cropped on the host, from their own pixels. `_PLAIN_SIZE`
    # counts only for whole squares, with `crop="device"`.
    about = {"file": str(path)}
    encoder = Encoder(found, views, _PLAIN_SIZE, found.channels, about)
    if model is None:
        return encoder
    # Not from the file itself, which may have a prefix, other names and a classifier.
    load_state_dict(model, state_dict(found))
    model.eval()
    return replace(encoder, model=model)


def _description(path: Path) -> dict[str, Any] | None:
    """Returns the description that `save_encoder` wrote, or None without one."""
    if path.suffix != ".safetensors":
        return None
    try:
        # Reads the header alone, not the tensors.
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(_KEY)
    except SafetensorError as error:
        raise ValueError(
            f"`path` must be an undamaged safetensors file, got {path}: {error}"
        ) from error
    return None if text is None else _parsed(text, path)


def _parsed(text: str, path: Path) -> dict[str, Any]:
    """Returns the description in a file's metadata."""
    try:
        found = json.loads(text)
        if not (
            all(isinstance(found[name], kind) for name, kind in _STORED.items())
            and "name" in found["architecture"]
            and "kind" in found["views"]
        ):
            raise ValueError("an entry is of another type")
    # JSON that is not an object raises a TypeError.
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            "`path` must have the metadata that `save_encoder` writes, got "
            f"{text[:100]!r} as {_KEY!r} in {path}"
        ) from error
    return found


def _built(architecture: dict[str, Any], path: Path) -> nnx.Module:
    name = architecture["name"]
    if name not in ENCODERS:
        raise ValueError(
            f"`model` must be given for an encoder that is not one of "
            f"{', '.join(ENCODERS)}, got None for {path}, which holds a {name}"
        )
    # Shapes suffice, because every parameter is overwritten. The random streams of drop
    # path are in no file and would remain shapes, so the encoder is built without them.
    arguments = {k: v for k, v in architecture.items() if k != "drop_path"}
    return nnx.eval_shape(lambda: build_encoder(arguments, rngs=nnx.Rngs(0)))
