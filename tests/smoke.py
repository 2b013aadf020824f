"""Shows that an extra of the installed package works: `python -I tests/smoke.py EXTRA`.

.ci/run calls it for the wheel, and on the oldest and newest versions. Without `-I`
Python would import the package from the clone.
"""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import vicreg_jax

BIN = Path(sys.executable).parent
_SITE = """
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "sphinx_book_theme"
"""


def core(directory):
    """The loss, with JAX alone."""
    for name in ("flax", "optax", "torch", "jaxtyping"):
        assert importlib.util.find_spec(name) is None, f"{name} is installed"
    z1, z2 = jnp.eye(4), jnp.ones((4, 4))
    loss = vicreg_jax.VICRegLoss(25.0, 25.0)
    # Invariance 3/4; hinges 1 - sqrt(.2501) and .99; covariance 12 / (4 * 12**2).
    np.testing.assert_allclose(loss(z1, z2), 56.01833, atol=1e-4)
    assert np.all(np.isfinite(jax.grad(loss)(z1, z2)))
    job = subprocess.run(
        [BIN / "vicreg-pretrain"], capture_output=True, text=True, check=False
    )
    assert "pip install 'vicreg_jax[pretrain]'" in job.stderr, job.stderr


def pretrain(directory):
    """A short run of the command, and the features of its encoder."""
    run, images = directory / "run", np.zeros((64, 8, 8, 1), np.uint8)
    np.save(directory / "images.npy", images)  # unlabeled, so without probes
    command = "digits --epochs 1 --batch 16 --width 4 --expander 16 --probe-every 0"
    data = ["--data", directory / "images.npy", "--out", run]
    subprocess.run([BIN / "vicreg-pretrain", *command.split(), *data], check=True)
    features = vicreg_jax.load_encoder(run).embed(images)
    assert len(features) == 64 and np.all(np.isfinite(features))


def elpv(directory):
    """Photographs of solar cells."""
    from vicreg_jax.pretrain.input.datasets import open_source

    assert len(open_source("elpv", size=8, channels=1)) == 2624


def parity(directory):
    """A file of PyTorch."""
    import torch

    from vicreg_jax.convert import read

    torch.save({"model": {"weight": torch.ones(2)}}, directory / "weights.pth")
    np.testing.assert_array_equal(read(directory / "weights.pth")["weight"], 1)


def tpu(directory):
    """The loss, compiled for chips that are not attached."""
    from jax.sharding import NamedSharding, PartitionSpec

    from vicreg_jax import aot

    rows = NamedSharding(aot.mesh("v5e:2x2"), PartitionSpec("data"))
    z = jax.ShapeDtypeStruct((128, 256), "bfloat16", sharding=rows)
    assert aot.report(vicreg_jax.VICRegLoss(25.0, 25.0), z, z).moved


def test(directory):
    """The tests of the errors, on this package."""
    _pytest("test_errors.py")


def fast_input(directory):
    """The tests of the faster packages, on this package."""
    _pytest("test_host_crops.py", "-k", "TestFastPackages")


def _pytest(file, *options):
    import pytest

    tests = Path(__file__).parent
    common = ["-q", "-n0", "-p", "no:cacheprovider", "--rootdir", str(tests.parent)]
    assert pytest.main([*common, str(tests / file), *options]) == 0


def docs(directory):
    """A page with a docstring."""
    (directory / "conf.py").write_text(_SITE)
    (directory / "index.md").write_text(
        "# Page\n\n```{eval-rst}\n.. autofunction:: vicreg_jax.vicreg_loss\n```\n"
    )
    subprocess.run(
        [BIN / "python", "-m", "sphinx", "-q", "-W", directory, directory / "site"],
        check=True,
    )
    assert "lambd" in (directory / "site/index.html").read_text()


def dev(directory):
    """The tools."""
    for tool in ([BIN / "ruff"], [BIN / "python", "-m", "build"]):
        subprocess.run([*tool, "--version"], check=True)


if __name__ == "__main__":
    extra = globals()[sys.argv[1].replace("-", "_")]
    assert Path(vicreg_jax.__file__).is_relative_to(sys.prefix), vicreg_jax.__file__
    with tempfile.TemporaryDirectory() as directory:
        extra(Path(directory))
    print(f"{sys.argv[1]}: {extra.__doc__}")
