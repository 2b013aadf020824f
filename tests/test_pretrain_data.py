"""The images of a run: which are learned from, and which are evaluated on."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from runs import tiny

from vicreg_jax.pretrain import export, recipes
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.input import load_datasets, open_source, pack, sample


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


@pytest.mark.parametrize("evaluate_on", ["test", "validation"])
def test_a_probe_of_other_images_holds_out_a_fifth(monkeypatch, evaluate_on):
    programs = SimpleNamespace(config=tiny(data="mnist", evaluate_on=evaluate_on))
    found = []
    monkeypatch.setattr(export, "newest", lambda _: (programs, None))
    monkeypatch.setattr(
        export.evaluation, "evaluate", lambda *parts: found.append(parts[-1])
    )
    with pytest.raises(UsageError, match="--data must have labels"):
        export.probe(Path("run"), data="digits")
    assert list(map(len, found[0])) == [1437, 360]


@pytest.mark.parametrize("unlabeled", [0, 9])
def test_arrays_that_lack_one_label(tmp_path, unlabeled):
    labels = np.arange(10) % 2
    labels[unlabeled] = -1
    path = tmp_path / "some.npz"
    np.savez(path, images=np.zeros((10, 8, 8), np.uint8), labels=labels)
    with pytest.raises(UsageError, match="for every image or for none, .* 1 of 10"):
        load_datasets(tiny(data=str(path)))


@pytest.mark.parametrize("packed", [False, True])
def test_the_first_images_may_be_damaged(tmp_path, packed):
    for index in range(10):
        path = tmp_path / "images" / "ab"[index // 5] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("L", (8, 8)).save(path)
    (tmp_path / "images" / "a" / "0.png").write_bytes(b"damaged")
    data = tmp_path / "images"
    if packed:
        pack(open_source(data), tmp_path / "records")
        data = tmp_path / "records"
    config = tiny(data=str(data))
    assert list(map(len, load_datasets(config))) == [8, 2]
    both = dataclasses.replace(config, test_data=config.data)
    assert list(map(len, load_datasets(both))) == [10, 10]


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


@pytest.mark.parametrize(
    "test, wrong",
    [
        ("a", None),  # class 0 is the same in both, so nothing is misnumbered
        ("abcd", None),
        ("ac", "class 1 must be b, got c$"),
        ("abx", "class 2 must be c, got x$"),
        ("abcde", "class 4 must be absent, got e$"),
    ],
)
def test_test_images_have_the_classes_of_the_training_images(tmp_path, test, wrong):
    for part, names in (("train", "abcd"), ("test", test)):
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            PIL.Image.new("L", (8, 8)).save(tmp_path / part / name / "0.png")
    config = tiny(data=str(tmp_path / "train"), test_data=str(tmp_path / "test"))
    if wrong is None:
        assert load_datasets(config).held_out.classes == tuple(test)
        return
    with pytest.raises(UsageError, match=f"^--test-data must number .*: {wrong}"):
        load_datasets(config)


def test_some_images_are_the_same_ones_each_time():
    source = load_datasets(tiny()).train
    first, again = (sample(source, 10) for _ in range(2))
    np.testing.assert_array_equal(first.chosen, again.chosen)
    assert len(first) == 10 and sample(source, 10_000) is source
