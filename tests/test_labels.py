"""Shares of the labels, drawn class by class, and lists of image files."""

import numpy as np
import pytest
from PIL import Image

from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.input import Arrays, folder
from vicreg_jax.pretrain.input.labels import labeled

LABELS = np.repeat([2, 0, 1], [200, 100, 4]).astype(np.int32)
SOURCE = Arrays(np.zeros((304, 2, 2, 1), np.uint8), LABELS, ("a", "b", "c"))


def test_a_share_is_drawn_class_by_class():
    one, again, other = (labeled(SOURCE, "10%", seed=seed) for seed in (0, 0, 1))
    # Of a class with 4 images, at least one.
    assert np.bincount(one.labels).tolist() == [10, 1, 20]
    assert one.chosen.tolist() == again.chosen.tolist() != other.chosen.tolist()
    assert len(set(one.chosen.tolist())) == 31
    assert labeled(SOURCE, "100%") is SOURCE
    assert np.bincount(labeled(SOURCE, "0.5%").labels).tolist() == [1, 1, 1]


@pytest.fixture
def photographs(tmp_path):
    for name in ("cat/n1_7.png", "cat/n1_8.png", "dog/n2_7.png", "dog/n1_8.png"):
        path = tmp_path / "photographs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(path)
    return folder(tmp_path / "photographs", size=4, channels=1)


def test_a_list_names_files_as_simclrs_do(photographs, tmp_path):
    path = tmp_path / "1percent.txt"
    path.write_text("n2_7.png\nn1_7.png\n")
    chosen = labeled(photographs, str(path))
    assert [name.rsplit("/", 2)[-1] for name in map(chosen.name, range(2))] == [
        *("n1_7.png", "n2_7.png")
    ]
    assert chosen.labels.tolist() == [0, 1]
    path.write_text("dog/n1_8.png\n")
    assert labeled(photographs, str(path)).labels.tolist() == [1]


@pytest.mark.parametrize(
    "text, message",
    [
        ("n1_9.png\n", "got 'n1_9.png' in .*, which matches 0"),
        ("n1_8.png\n", "got 'n1_8.png' in .*, which matches 2"),
        ("\n", "--labels must list at least one image, got .*list.txt, empty"),
    ],
)
def test_refuses_a_list_that_does_not_fit(photographs, tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UsageError, match=message):
        labeled(photographs, str(tmp_path / "list.txt"))


@pytest.mark.parametrize("labels", ["0%", "101%"])
def test_refuses_a_share_out_of_range(labels):
    message = f"--labels must be above 0% and at most 100%, got {labels}"
    with pytest.raises(UsageError, match=message):
        labeled(SOURCE, labels)


def test_refuses_what_is_neither_share_nor_file():
    with pytest.raises(FileNotFoundError, match="--labels must be a share such as 1%"):
        labeled(SOURCE, "1 percent")
