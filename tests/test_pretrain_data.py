"""The images of a run: which are learned from, and which are judged on."""

import dataclasses

import numpy as np
import PIL.Image
import pytest
from runs import tiny

from vicreg_jax.pretrain import recipes
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.input import load_datasets, sample


@pytest.mark.parametrize("name, images", [("mnist", 5000), ("digits", 1797)])
def test_held_out_images_are_not_trained_on(name, images):
    def shown(source):
        return {source[i].image.tobytes() for i in range(len(source))}

    config = recipes.RECIPES[name]()
    test = load_datasets(config)
    assert len(test.train) + len(test.held_out) == images
    tuning = load_datasets(dataclasses.replace(config, evaluate_on="validation"))
    seen = shown(tuning.train) | shown(tuning.held_out)
    assert seen == shown(test.train)
    assert not seen & shown(test.held_out)


def test_images_without_labels_and_of_another_size(tmp_path):
    images = np.zeros((20, 8, 8), np.uint8)
    np.save(tmp_path / "images.npy", images)
    config = tiny(data=str(tmp_path / "images.npy"))
    assert load_datasets(config).held_out is None
    with pytest.raises(ValueError, match="--data must have labels if --test-data"):
        load_datasets(dataclasses.replace(config, test_data="digits"))
    with pytest.raises(UsageError, match="--test-data must have labels, got .*images"):
        load_datasets(dataclasses.replace(config, data="digits", test_data=config.data))
    with pytest.raises(
        ValueError, match=r"--size, --size.* \(9, 9, 1\), got \(8, 8, 1\)"
    ):
        load_datasets(dataclasses.replace(config, size=9))


def test_test_images_have_the_classes_of_the_training_images(tmp_path):
    for name in ("train/a", "train/b", "train/c", "test/a", "test/c", "few/a"):
        (tmp_path / name).mkdir(parents=True)
        PIL.Image.new("L", (8, 8)).save(tmp_path / name / "0.png")
    config = tiny(data=str(tmp_path / "train"), test_data=str(tmp_path / "test"))
    with pytest.raises(UsageError, match="--test-data must have the classes .* has b$"):
        load_datasets(config)
    # Class 0 is the same in both, so nothing is misnumbered.
    few = dataclasses.replace(config, test_data=str(tmp_path / "few"))
    assert load_datasets(few).held_out.classes == ("a",)


def test_some_images_are_the_same_ones_each_time():
    source = load_datasets(tiny()).train
    first, again = (sample(source, 10) for _ in range(2))
    np.testing.assert_array_equal(first.chosen, again.chosen)
    assert len(first) == 10 and sample(source, 10_000) is source
