"""The plain code blocks of the pages run. The build of the site runs the code cells."""

import importlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from grids import thinned
from pages import PAGES, blocks
from photographs import write_photographs

from vicreg_jax import aot

CODE = {
    f"{page.stem.lower()}_{number}": code
    for page in PAGES
    for number, code in enumerate(blocks(page, "python"))
}
QUICK = ["readme_0", "pods_0", "reproduce_0"]
VIEWS = """
import dataclasses

@dataclasses.dataclass(frozen=True)
class NoisyViews:
    size: int = 28

    def pair(self, key, images, aspect):
        return self.plain(images, aspect), self.plain(images, aspect)

    def plain(self, images, aspect):
        return images / 255
"""


def photographs():
    write_photographs(Path("photographs"))
    for name in ("a.jpg", "b.png"):
        PIL.Image.new("RGB", (40, 30)).save(name)


def imagenet():
    for split in ("train", "val"):
        write_photographs(Path("imagenet", split))


def features():
    for name, count in (("train", 20), ("val", 3)):
        labels = np.arange(count, dtype=np.int32)
        np.savez(f"{name}.npz", features=np.eye(count, 20), labels=labels)


def spectra():
    np.save("spectra.npy", np.zeros((40, 1, 500, 1), np.uint8))
    Path("my_views.py").write_text(VIEWS)


def weights():
    torch_timm = pytest.importorskip("torch_timm")
    safetensors = pytest.importorskip("safetensors.torch")
    network = torch_timm.timm().create_model("vit_small_patch16_224", num_classes=0)
    safetensors.save_file(network.state_dict(), "vit_small_patch16_224.safetensors")


def chips():
    if not aot.available():
        pytest.skip("libtpu is not installed")


# What a block reads or needs, and what makes it small.
STAND_INS = {
    "conventions_0": (weights, {}),
    "devices_0": (chips, {}),
    "job_0": (
        photographs,
        {
            "size=128, epochs=100": "size=8, epochs=1, width=4, expander=8",
            'out="runs/photos")': 'out="runs/photos", mesh="data=1")',
        },
    ),
    "job_1": (spectra, {"batch=256, epochs=100": "batch=16, epochs=1, expander=8"}),
    "pods_0": (imagenet, {"shards=256": "shards=2"}),
    "reproduce_0": (features, {}),
}


@pytest.mark.usefixtures("small_kernels", "relaxed_promotion", "unchecked_signatures")
@pytest.mark.parametrize("name", thinned(CODE, keep=QUICK))
def test_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    prepare, smaller = STAND_INS.get(name, (list, {}))
    prepare()
    code = CODE[name]
    for long, short in smaller.items():
        assert long in code
        code = code.replace(long, short)
    (tmp_path / f"{name}.py").write_text(code)
    importlib.import_module(name)
