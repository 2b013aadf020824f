"""A few of scikit-learn's digits, for runs of three epochs in seconds."""

from functools import cache

import numpy as np

from vicreg_jax.pretrain import recipes
from vicreg_jax.pretrain.input import load_datasets
from vicreg_jax.pretrain.input.datasets import from_arrays, open_source

BATCH = 32
_IMAGES = 210
TRAINED = 168  # the others are held out
STEPS_PER_EPOCH = TRAINED // BATCH  # 8 images of an epoch are left out


@cache
def datasets():
    """Returns the images to train on and those held out."""
    return load_datasets(recipes.digits(), from_arrays(_arrays(), "digits"))


def labeled(directory):
    """Returns flags for all the images and their labels, in a file."""
    path = directory / "digits.npz"
    np.savez(path, **_arrays())
    return "--data", str(path)


def unlabeled(directory):
    """Returns flags for the images to train on without labels, in a file.

    Runs on them need no probes, which would take longer than the training.
    """
    train = datasets().train
    path = directory / "images.npy"
    np.save(path, np.stack([train[i].image for i in range(len(train))]))
    return "--data", str(path)


def _arrays():
    digits = open_source("digits")
    return {"images": digits.images[:_IMAGES], "labels": digits.labels[:_IMAGES]}
