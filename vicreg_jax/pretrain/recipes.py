"""Named configurations: `vicreg-pretrain NAME`. Flags change single settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vicreg_jax.augment import DigitViews, ImageViews
from vicreg_jax.pretrain.config import Config, EncoderName, data_setting
from vicreg_jax.pretrain.errors import check_at_least

_LEAST_STEPS, _LEAST_EPOCHS, _MOST_EPOCHS = 10_000, 50, 1000
_SMALL = 64  # pixels a side up to which the small encoder is taken


def mnist() -> Config:
    """5,000 handwritten digits of 28x28, of which 1,000 are held out.

    Run it with `vicreg-pretrain`; it takes one minute on two cores of an AMD Zen 5, and
    three on two of a Zen 3. Three seeds reached 93.2% (91.2 to 94.4) with 1% of the
    labels, 96.7% with 10%, 97.7% with all, and 97.5% with k-NN; raw pixels 56.9, 82.7,
    89.8 and 93.0%. Batch size 128, learning rate 6e-3 and 36 epochs reached 93.9, 97.3,
    98.1 and 98.2% in twice the time.
    """
    return Config(batch=64, epochs=18, learning_rate=8e-3)


def digits() -> Config:
    """scikit-learn's 1,797 digits of 8x8, to try things out.

    Run it with `vicreg-pretrain digits`; it takes half a minute on two cores. Three
    seeds reached 65.6% (56.9 to 71.1) with 1% of the labels, 94.9% with 10%, 98.1% with
    all, and 96.5% with k-NN; raw pixels 37.5, 89.3, 95.8 and 97.5%.
    """
    return Config(data="digits", size=8, views=DigitViews(size=8), epochs=15)


def elpv() -> Config:
    """2,624 photographs of solar cells, some of them defective.

    Run it with `vicreg-pretrain elpv` after `pip install elpv-dataset`; it takes five
    minutes on two cores. The images have the license CC BY-NC-SA 4.0. Three seeds
    reached 81.6% (80.6 to 83.4) with 10% of the labels, 81.0% with all, 83.3% with
    k-NN, and an area under the ROC curve of 0.851; raw pixels 74.1, 81.1 and 77.1%, and
    0.834. The most frequent class makes up 68.7%.
    """
    # Changes of hue and saturation have no effect on gray images. The probes see the
    # whole cell, where the default crops to 224 of 256 pixels.
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
    """CIFAR-10 or CIFAR-100 with a ResNet-18 and solo-learn's settings, 1000 epochs.

    Run it with `vicreg-pretrain cifar --data DIR --test-data DIR/test_batch` if DIR is
    cifar-10-batches-py, the directory of CIFAR-10's Python version, or with
    `--data DIR --test-data DIR/test` if DIR is cifar-100-python. It was run here
    for a few epochs only, because all of them need a GPU. solo-learn reports 92.1% on
    CIFAR-10 and 68.5% on CIFAR-100 with its online linear classifier. Scale
    --learning-rate with --batch: 0.3 at 256, 0.075 at 64, where 0.3 diverged.
    """
    views = ImageViews(
        size=32,
        scale=(0.2, 1.0),
        blur=(0.0, 0.0),
        # Of the training images of CIFAR-10.
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.247, 0.2435, 0.2616),
        center=1.0,
    )
    return Config(
        data="cifar-10-batches-py",
        crop="device",  # the images are in memory
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
    """ImageNet with a ResNet-50 and the paper's settings, 1000 epochs.

    Run it with `vicreg-pretrain imagenet --data imagenet/train --test-data
    imagenet/val` on 64 v5e chips or eight large GPUs; see docs/pods.md. It was not run
    here, but compiled for v5e:8x8. The paper reports 73.2% top-1 with a linear
    classifier, and 68.6% after 100 epochs (--epochs 100). It ends with k-NN, in which
    all training images vote; the paper reports 64.5%. Then `vicreg-pretrain linear RUN`
    trains the classifier. The weights are those of the paper's Algorithm 1; the
    official code has half the variance's weight: --mu 12.5.
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
        # The paper's, which for 1000 epochs is 0.2 for each 256 images, 1.6 in all.
        learning_rate=None,
        weight_decay=1e-6,
        warmup=None,
        epochs=1000,
        batch=2048,
        evaluation="k-NN",
    )


def vicregl() -> Config:
    """VICRegL on ImageNet with a ResNet-50 and the authors' settings, 300 epochs.

    Run it with `vicreg-pretrain vicregl --data imagenet/train --test-data imagenet/val`
    on the chips of the recipe `imagenet`. It was not run here, but compiled for
    v5e:8x8. The authors report 70.4% top-1 with a linear classifier and 55.9 mIoU of
    frozen segmentation on VOC; 71.2% and 54.0 with --alpha 0.9; and 71.5% and 47.8 for
    VICReg. Positions ignore flips, as in the authors' code. --views.follow-flips
    makes them follow flips, which is correct.
    """
    return dataclasses.replace(
        imagenet(),
        views=ImageViews.official(follow_flips=False),
        alpha=0.75,
        # Half of the authors' 25 and 1, because their code averages over views and the
        # terms here are twice the mean.
        mu=12.5,
        nu=0.5,
        learning_rate=1.6,
        epochs=300,
    )


def canvas() -> Config:
    """VICRegL on 4,000 canvases with three digits each, to try dense features out.

    Run it with `vicreg-pretrain canvas`; docs/vicregl.md has what it reaches.
    """
    views = ImageViews(
        size=40,
        scale=(0.3, 1.0),
        flip=0.0,
        saturation=0.0,
        hue=0.0,
        gray=0.0,
        blur=(0.1, 0.1),
        solarize=(0.0, 0.0),
        mean=(0.1, 0.1, 0.1),
        std=(0.2, 0.2, 0.2),
        center=1.0,
    )
    return Config(
        data="canvas",
        test_data="canvas-test",
        size=40,
        views=views,
        width=16,
        alpha=0.75,
        local_expander=64,
        mu=12.5,
        nu=0.5,
        batch=64,
        probe_images=1000,
        epochs=8,
        learning_rate=8e-3,
    )


def convnext() -> Config:
    """ImageNet with a ConvNeXt-S and VICRegL's settings of AdamW, 400 epochs.

    Run it with `vicreg-pretrain convnext --data imagenet/train --test-data
    imagenet/val`. It was not run here, but compiled: each chip of v5e:8x8 needs 3.6 GiB
    and 0.69 TFLOP for a step. The learning rate is 7.5e-4 for 256 images, as in
    VICRegL's code (arXiv:2210.01571) for a ConvNeXt-S. For a ConvNeXt-B it has 5e-4 and
    a batch size of 576, which is the same peak: --encoder convnext_base --batch 576.
    The loss is VICReg's, on two views.

    With --encoder vit_small or vit_base it trains a ViT. No settings of VICReg with a
    ViT are published, and these were not tried.
    """
    return dataclasses.replace(
        imagenet(),
        encoder="convnext_small",
        drop_path=0.1,
        optimizer="adamw",
        # 7.5e-4 * 384 / 256. Another --batch does not change it.
        learning_rate=1.125e-3,
        weight_decay=0.05,
        epochs=400,
        batch=384,
    )


def images(
    data: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    encoder: EncoderName | None = None,
    **changes: Any,
) -> Config:
    """Your own images, with settings that suit their number, size and colors.

    Run it with `vicreg-pretrain --data FOLDER`. The side of the views is the median of
    the files' shorter sides, from 32 to 256 pixels. Images are RGB if any of a sample
    has colors. The encoder is small up to 64 pixels, and a ResNet-18 above; the views
    are blurred and solarized above 64 pixels only. A batch has 256 images, or fewer so
    that an epoch has three steps. The epochs are those of 10,000 steps, from 50 to
    1000. Look at views.png in the run's directory and adapt the views.

    Args:
        data: A folder of images, or files of arrays or records.
        size: Side of the decoded images and of the views. None: from the images.
        channels: 1 for grayscale, 3 for RGB. None: from the images.
        encoder: None: from `size`.
        changes: Further settings of `Config`, such as ``epochs=100``.

    Raises:
        TypeError: If `data` is not a path.
        UsageError: If `data` does not hold images, or a setting is out of range.
        FileNotFoundError: If there is no such file or folder.
    """
    # Opening images takes packages that the other recipes do not need.
    from vicreg_jax.pretrain.input.survey import MOST_SIDE, survey

    if not isinstance(data, str | Path):
        raise TypeError(
            f"`data` must be a path, got {type(data).__name__}; save arrays by "
            "np.savez(PATH, images=..., labels=...)"
        )
    found = survey(data)
    if size is None:
        size = min(found.size, MOST_SIDE)
        if encoder and encoder.startswith("vit"):
            size = max(size // 16, 1) * 16  # whole patches
    check_at_least("size", size, 1)
    # Arrays keep their size, and only the views may have another.
    side = found.size if found.in_memory else size
    channels = channels or found.channels
    # Local views, if there are any, have the paper's share of the side.
    views = ImageViews(
        size=size, scale=(0.2, 1.0), local_size=max(round(size * 96 / 224), 1)
    )
    if size <= _SMALL:
        # On 300 textures of 32 pixels, k-NN reached 85% with them, 92% without.
        views = dataclasses.replace(views, blur=(0.0, 0.0), solarize=(0.0, 0.0))
    batch = _batch(found.images)
    steps_per_epoch = max(1, found.images // batch)
    epochs = min(max(_LEAST_STEPS // steps_per_epoch, _LEAST_EPOCHS), _MOST_EPOCHS)
    settings: dict[str, Any] = {
        "data": data_setting(data),
        "size": side,
        "channels": channels,
        "views": views,
        "batch": batch,
        "epochs": epochs,
        "encoder": encoder or ("small" if size <= _SMALL else "resnet18"),
    }
    if settings["encoder"] != "small":
        settings |= {"width": 64, "expander": 2048, "learning_rate": 1e-3}
    return Config(**(settings | changes))


def _batch(images: int) -> int:
    """Returns a power of two up to 256 that gives three steps an epoch.

    Below 16 images a batch would say little about covariances, so one step is enough.
    """
    batch = 256
    while batch > 2 and images < (3 * batch if batch > 16 else batch):
        batch //= 2
    return batch


RECIPES: dict[str, Callable[[], Config]] = {
    recipe.__name__: recipe
    for recipe in (mnist, digits, elpv, canvas, cifar, imagenet, convnext, vicregl)
}
