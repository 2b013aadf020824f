"""Images to read: photographs in folders, and images that are numbers."""

import numpy as np
import PIL.Image
from sklearn.datasets import load_sample_images

from vicreg_jax.pretrain.input import Arrays

CHINA, FLOWER = load_sample_images().images


def write_photographs(folder):
    """Twelve parts of two photographs in folders by class, as JPEG and PNG."""
    for name, pixels in (("china", CHINA), ("flower", FLOWER)):
        (folder / name / "deep").mkdir(parents=True)
        for i in range(6):
            part = PIL.Image.fromarray(pixels[20 * i : 20 * i + 90, : 120 + i])
            below = "deep/" if i == 5 else ""
            part.save(folder / name / f"{below}{i}.{'jpg' if i % 2 else 'png'}")
    (folder / "notes.txt").write_text("no image")
    return folder


def numbered(images):
    """Returns images whose every pixel is their number, and their number as label."""
    numbers = np.arange(images, dtype=np.int32)
    pixels = np.broadcast_to(numbers[:, None, None, None], (images, 2, 3, 1))
    return Arrays(pixels.astype(np.uint8), numbers)
