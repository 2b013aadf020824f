"""Draws what a crop loses if it is cut from a square of 256 pixels.

python docs/images/crops.py    # writes crops.png; needs scikit-image
"""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
from skimage import data

from vicreg_jax.augment import RandomCrops
from vicreg_jax.augment.crops import uniform
from vicreg_jax.decode import decode, decode_crops

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "immunohistochemistry")
VIEW, SQUARES = 224, (256, 384)
AREAS = (0.08, 0.15, 0.3, 0.5, 0.7, 0.9)
CROPS = 10  # of each photograph and area


def photographs():
    """Yields the photographs as PNG files."""
    for name in PHOTOGRAPHS:
        file = io.BytesIO()
        PIL.Image.fromarray(getattr(data, name)()).save(file, "PNG")
        yield file.getvalue()


def exact(content, area, seed=0):
    """Returns crops of one area from the original pixels, and their boxes."""
    croppings = (RandomCrops(CROPS, VIEW, (area, area)),)
    numbers = [uniform(seed, 0, range(1), count=CROPS)[0]]
    (crops,), _ = decode_crops(content, croppings, numbers, channels=3)
    return crops.pixels, crops.boxes


def squeezed(content, boxes, size):
    """Returns the same crops from a square of some size."""
    square = PIL.Image.fromarray(decode(content, size=size, channels=3).pixels)
    corners = np.stack(
        [boxes[:, 1], boxes[:, 0], boxes[:, 1] + boxes[:, 3], boxes[:, 0] + boxes[:, 2]]
    )
    corners = np.minimum(corners.T * size, size)
    bicubic = PIL.Image.Resampling.BICUBIC
    return np.stack(
        [square.resize((VIEW, VIEW), bicubic, tuple(corner)) for corner in corners]
    )


def psnr(found, wanted):
    """Returns the peak signal-to-noise ratio of each crop in decibels."""
    error = (found.astype(float) - wanted) ** 2
    return 10 * np.log10(255**2 / error.mean((1, 2, 3)))


def power(crops):
    """Returns the mean power by frequency, in cycles a view, of gray crops."""
    window = np.hanning(VIEW)[:, None] * np.hanning(VIEW)
    gray = crops.mean(-1) - crops.mean((1, 2, 3))[:, None, None]
    spectrum = np.abs(np.fft.fft2(gray * window)) ** 2
    frequency = np.abs(np.fft.fftfreq(VIEW) * VIEW)
    radius = np.hypot(frequency, frequency[:, None]).round().astype(int)
    counts = np.bincount(radius.ravel())
    found = np.bincount(radius.ravel(), spectrum.mean(0).ravel()) / counts
    return found[: VIEW // 2]


def draw_example(axes, content):
    """Draws one small crop from the original and from the square."""
    wanted, boxes = exact(content, AREAS[0])
    pair = wanted[7], squeezed(content, boxes, SQUARES[0])[7]
    for panel, image, title in zip(
        axes,
        pair,
        ("from the original", f"from {SQUARES[0]}x{SQUARES[0]}"),
        strict=True,
    ):
        panel.imshow(image)
        panel.set_title(title)
        panel.set_axis_off()


def draw_loss(ratio_axes, power_axes, files):
    """Draws the PSNR by area, and for the smallest area the power by frequency."""
    power_axes.set(
        xlabel="cycles a view",
        ylabel="power, as a share of the original's",
        ylim=(0, 1.1),
    )
    ratio_axes.set(xlabel="area of the crop", ylabel="PSNR, dB")
    for size in SQUARES:
        means = []
        for area in AREAS:
            crops = [(content, *exact(content, area)) for content in files]
            pairs = [(squeezed(c, boxes, size), wanted) for c, wanted, boxes in crops]
            means.append(np.mean([psnr(*pair) for pair in pairs]))
            if area == AREAS[0]:
                ours, theirs = (
                    sum(power(pair[i].astype(float)) for pair in pairs) for i in (0, 1)
                )
                power_axes.plot(ours / theirs, label=f"from {size}x{size}")
        ratio_axes.plot(AREAS, means, "o-", label=f"from {size}x{size}")
        print(f"{size}: PSNR {dict(zip(AREAS, np.round(means, 1), strict=True))}")
        print(f"{size}: power at 28, 56 cycles {(ours / theirs)[[28, 56]].round(2)}")
    power_axes.set_title(f"crops of {100 * AREAS[0]:.0f}% of the area")
    ratio_axes.set_title("similarity to the original")
    ratio_axes.legend()
    power_axes.legend()


def main():
    """Writes the figure beside this file."""
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
    files = list(photographs())
    draw_example(axes[:2], files[1])
    draw_loss(axes[2], axes[3], files)
    figure.savefig(Path(__file__).with_name("crops.png"), dpi=110)


if __name__ == "__main__":
    main()
