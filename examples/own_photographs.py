"""Your own photographs: pretrain on a folder, embed them, draw nearest neighbors.

    python examples/own_photographs.py     # 40 s on two cores; needs scikit-image

The photographs are those of textures.py. To use it, replace `photographs` with the path
of your folder. Without a subfolder for each class there are no probes; all else works.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from textures import write_textures

from vicreg_jax.decode import decode
from vicreg_jax.pretrain import pretrain, recipes
from vicreg_jax.pretrain.embed import embed


def nearest_agree(features, labels):
    """Returns how often the nearest neighbor by cosine is of the same class."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)  # an image is not its own neighbor
    return np.mean(labels[cosines.argmax(axis=1)] == labels)


def main(out: Path, epochs: int):
    """Goes from the folder to the picture, all of it in `out`."""
    photographs = out / "photographs"
    write_textures(photographs)

    # The recipe reads the number of images and their colors from the files.
    config = recipes.images(photographs, size=32, epochs=epochs)
    run = pretrain(config, out=out / "run")
    print("Look at", run.run_folder / "views.png", "and at", run.picture)
    for features, accuracies in (run.evaluation or {}).items():
        print(f"{features}: k-NN {100 * accuracies['k-NN']:.1f}%")

    # The encoder takes paths, PIL images and uint8 arrays, and prepares them itself.
    new = run.encoder.embed(
        [photographs / "brick/00.png", photographs / "grass/00.png"]
    )
    print("features of two images:", new.shape)

    # As `vicreg-pretrain embed RUN --data FOLDER --out features.npz --neighbors 8`.
    for line in embed(
        run.run_folder, str(photographs), out / "features.npz", neighbors=8
    ):
        print(line)
    with np.load(out / "features.npz") as file:
        saved = dict(file)
    pixels = [decode(Path(name), size=32, channels=1).pixels for name in saved["names"]]
    raw = np.stack(pixels).reshape(len(pixels), -1).astype(np.float32)
    for name, features in {"VICReg": saved["features"], "raw pixels": raw}.items():
        share = nearest_agree(features, saved["labels"])
        print(f"{name}: the nearest neighbor has the same class in {100 * share:.1f}%")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--epochs", type=int, default=60)
    arguments = parser.parse_args()
    main(Path(tempfile.mkdtemp(dir=arguments.out)), arguments.epochs)
