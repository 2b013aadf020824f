"""A folder of 300 photographs of brick, grass and gravel, to try things out.

    python examples/textures.py photographs     # needs scikit-image
    vicreg-pretrain --data photographs --size 32

Each photograph is a part of one of scikit-image's sample photographs. No two of them
overlap, so held-out images share no pixel with training images.
"""

import sys
from pathlib import Path

import PIL.Image
import skimage.data

CLASSES = ("brick", "grass", "gravel")
ACROSS = 10  # parts across and down each of the three photographs of 512x512 pixels


def write_textures(folder: Path) -> None:
    """Writes 100 PNG files of 51x51 pixels for each class, in a subfolder each."""
    for name in CLASSES:
        pixels = getattr(skimage.data, name)()
        side = len(pixels) // ACROSS
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(ACROSS**2):
            top, left = (side * at for at in divmod(index, ACROSS))
            part = pixels[top : top + side, left : left + side]
            PIL.Image.fromarray(part).save(folder / name / f"{index:02}.png")


if __name__ == "__main__":
    write_textures(Path(sys.argv[1]))
