"""Named configurations: `vicreg-pretrain NAME`, with any choice changed by its flag."""

from __future__ import annotations

from collections.abc import Callable

from vicreg_jax.augment import DigitViews, ImageViews
from vicreg_jax.pretrain.config import Config


def mnist() -> Config:
    """Handwritten digits, 4,000 of 28x28 to learn from, 1,000 to judge on.

    vicreg-pretrain mnist: the default, a minute on two cores with AVX-512. Three seeds
    reached 93.2% (91.2 to 94.4) with 1% of the labels, 96.7% with 10%, 97.7% with all,
    k-NN 97.7%; raw pixels 56.9, 82.7, 89.8 and 93.1%. Batches of 128 at a rate of 6e-3
    for 36 epochs reached 93.9, 97.3, 98.1 and 98.2% in twice the time.
    """
    return Config(batch=64, epochs=18, learning_rate=8e-3)


def digits() -> Config:
    """scikit-learn's 1,797 digits of 8x8, to try things out.

    vicreg-pretrain digits: half a minute on two cores. One seed reached 56.1% with 1%
    of the labels, 95.6% with 10%, 98.1% with all, k-NN 96.9%; raw pixels 35.6, 90.8,
    95.8 and 97.5%.
    """
    return Config(data="digits", size=8, views=DigitViews(size=8), epochs=15)


def elpv() -> Config:
    """2,624 photographs of solar cells, of which defective ones are to be found.

    vicreg-pretrain elpv: five minutes on two cores, after pip install elpv-dataset, of
    which the images are licensed CC BY-NC-SA 4.0. One seed reached 83.2% with 10% of
    the labels, 81.9% with all, k-NN 84.6%, an area under the ROC curve of 0.864; raw
    pixels 75.6, 81.0 and 77.9%, 0.834. Always to say "sound" is right in 68.7%.
    """
    views = ImageViews(
        size=64,
        scale=(0.3, 1.0),
        hue=0.0,
        saturation=0.0,
        gray=0.0,
        blur=(0.1, 0.1),
        center=1.0,
    )
    return Config(data="elpv", size=80, views=views, batch=64, epochs=40)


def cifar() -> Config:
    """CIFAR-10 or -100 with a ResNet-18, for 1000 epochs, as in solo-learn.

    vicreg-pretrain cifar --data DIR --test-data DIR/test_batch, where DIR is
    cifar-10-batches-py, the folder in which the Python version of the data set arrives;
    or cifar-100-python and its file test. Not run here: it wants a GPU. solo-learn
    reports 92.1% on CIFAR-10, 68.5% on CIFAR-100, by its online linear classifier.
    --learning-rate goes with --batch: 0.3 at 256, 0.075 at 64, where 0.3 diverged.
    """
    views = ImageViews(
        size=32,
        scale=(0.2, 1.0),
        blur=(0.0, 0.0),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.247, 0.2435, 0.2616),
        center=1.0,
    )
    return Config(
        data="cifar-10-batches-py",
        size=32,
        channels=3,
        views=views,
        encoder="resnet18",
        width=64,
        small_images=True,
        expander=2048,
        dtype="bfloat16",
        optimizer="lars",
        learning_rate=0.3,
        trust_coefficient=0.02,
        clip_trust=True,
        weight_decay=1e-4,
        warmup=None,
        epochs=1000,
        batch=256,
    )


def imagenet() -> Config:
    """ImageNet with a ResNet-50 for 1000 epochs: the paper's run.

    vicreg-pretrain imagenet --data imagenet/train --test-data imagenet/val, on 64 v5e
    chips or eight large GPUs; see docs/pods.md. Not run here: compiled for v5e:8x8. The
    paper reports 73.2% top-1 with a linear classifier; after 100 epochs (--epochs 100)
    68.6%. Its Algorithm 1 weighs as these defaults do; its authors' code has half the
    variance: --mu 12.5.
    """
    return Config(
        data="imagenet/train",
        test_data="imagenet/val",
        size=256,
        channels=3,
        views=ImageViews(),
        encoder="resnet50",
        width=64,
        expander=8192,
        dtype="bfloat16",
        optimizer="lars",
        learning_rate=None,
        weight_decay=1e-6,
        warmup=None,
        epochs=1000,
        batch=2048,
        probe_images=50_000,
    )


RECIPES: dict[str, Callable[[], Config]] = {
    recipe.__name__: recipe for recipe in (mnist, digits, elpv, cifar, imagenet)
}
