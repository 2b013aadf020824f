"""The job as a Python function: own data, own views, own encoders, and `Run`."""

import dataclasses
import io
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from flax import nnx
from processes import PROGRAMS, completed
from rich.console import Console
from runs import tiny
from spectra import OWN, QUICK, Noise, Spectra, spectra

from vicreg_jax.encoder import load_encoder, save_encoder
from vicreg_jax.pretrain import Run, api, pretrain, processes, recipes
from vicreg_jax.pretrain.config import Launch
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.export import export
from vicreg_jax.pretrain.processes import Interrupted


def test_importing_the_package_is_cheap():
    done = completed(PROGRAMS / "imports_pretrain.py")
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
class TestPretrain:
    def test_own_encoder_views_and_arrays(self, tmp_path):
        out = str(tmp_path / "run")
        quick = QUICK | {"log_every": 1}
        run = pretrain(OWN, out=out, data=spectra(), encoder=Spectra, **quick)
        assert run.finished and run.run_folder == tmp_path / "run"
        assert run.evaluation["VICReg"]["k-NN"] > 0.9
        assert run.config.encoder_class == f"{Spectra.__module__}:Spectra"
        assert run.picture.name == "report.png" and run.picture.exists()
        np.testing.assert_array_equal(run.metrics["step"], np.arange(4))
        assert np.isfinite(run.metrics["loss"]).all()
        assert np.isnan(run.metrics["images_per_second"][0])
        assert run.metrics["order"].dtype.kind == "U"
        images, _ = spectra(5)
        features = run.encoder.embed(images)
        assert features.shape == (5, 16)
        assert run.encoder.about["step"] == 4
        by_hand = load_encoder(out, Spectra(nnx.Rngs(1)))
        np.testing.assert_array_equal(by_hand.embed(images), features)
        again = Run.open(out, encoder=Spectra)
        np.testing.assert_array_equal(again.encoder.embed(images), features)
        assert again.evaluation == run.evaluation
        with pytest.raises(ValueError, match="`model` must be given"):
            _ = Run.open(out).encoder
        message = "`encoder` must be given, .*:Spectra, which no command can make"
        with pytest.raises(UsageError, match=message):
            export(Path(out))
        with pytest.raises(FileExistsError, match="must not hold a finished run"):
            pretrain(OWN, out=out, data=spectra(), encoder=Spectra, **QUICK)

    def test_an_instance_is_trained_from_its_parameters_and_kept(self, tmp_path):
        encoder = Spectra(nnx.Rngs(7))
        before = np.asarray(encoder.hidden.kernel)
        images, _ = spectra()
        config = dataclasses.replace(OWN, epochs=1, learning_rate=1e-9)
        run = pretrain(config, out=tmp_path, data=images, encoder=encoder, **QUICK)
        assert run.evaluation is None
        np.testing.assert_array_equal(encoder.hidden.kernel, before)
        trained = run.encoder.model.hidden.kernel
        np.testing.assert_allclose(trained, before, atol=1e-6)

    def test_says_and_shows_what_starts(self, tmp_path):
        shown = io.StringIO()
        options = QUICK | {"console": Console(file=shown, width=40), "log_every": 1}
        options |= {"probe_every": 1}
        images, _ = spectra()
        pretrain(OWN, out=tmp_path, data=images, encoder=Spectra, **options)
        lines = shown.getvalue().splitlines()
        compiling = lines.index("Compiling the first step")
        jax_version = re.escape(jax.__version__)
        for line, wanted in zip(
            lines[:compiling],
            (
                rf"vicreg_jax .*, JAX {jax_version}, 8 cpu \(cpu\)",
                "Recipe: none",
                "Images: 80 to train on, no labels, 1x12, 1 channel, of arrays-.*",
                r"Views: Noise\(size=12, noise=0.1\)",
                "Model: .*:Spectra, 240 parameters, [0-9,]+ more in the expander",
                "Training: 2 epochs of 2 steps, 32 images in a step",
                f"Directory: {tmp_path}",
            ),
            strict=True,
        ):
            assert re.fullmatch(wanted, line), line
        steps = [line for line in lines if line.startswith("step ")]
        assert len(steps) == 4
        assert re.fullmatch(
            r"step 4 of 4, epoch 2, loss \S+ inv .* cov \S+, 0:00 left", steps[-1]
        )
        assert lines[-1] == f"Everything is in {tmp_path}"
        # A quick check's lines follow the step that it is made after.
        checks = [line for line in lines if line.startswith("Epoch ")]
        assert len(checks) == 2 and all("at a batch size" in line for line in checks)
        assert lines.index(steps[-1]) < lines.index(checks[-1])
        start = json.loads((tmp_path / "run.json").read_text())[0]
        assert start["packages"]["jax"] == jax.__version__
        assert start["devices"] == "8 cpu (cpu)"
        # Three rows of eight images, each with a border.
        with PIL.Image.open(tmp_path / "views.png") as grid:
            assert grid.size == (8 * 98, 3 * 98)

    @pytest.mark.slow
    def test_starts_from_the_weights_of_another_run(self, tmp_path):
        encoder = Spectra(nnx.Rngs(7))
        path = tmp_path / "a.safetensors"
        kind = {"name": f"{Spectra.__module__}:Spectra"}
        save_encoder(
            path, encoder, architecture=kind, views=Noise(), size=12, channels=1
        )
        images, _ = spectra()
        own = {"data": images, "encoder": Spectra} | QUICK
        still = dataclasses.replace(OWN, epochs=1, learning_rate=1e-9, init=str(path))
        run = pretrain(still, out=tmp_path / "run", **own)
        trained = run.encoder.model.hidden.kernel
        np.testing.assert_allclose(trained, encoder.hidden.kernel, atol=1e-6)
        other = dataclasses.replace(still, init=str(tmp_path / "run"))
        own["encoder"] = lambda rngs: Spectra(rngs, hidden=8)
        with pytest.raises(UsageError, match="--init .*: .*hidden"):
            pretrain(other, out=tmp_path / "other", **own)
        own.pop("encoder")
        config = dataclasses.replace(other, width=4)
        with pytest.raises(UsageError, match="--init .*`model` must be given"):
            pretrain(config, out=tmp_path / "built-in", **own)

    def test_other_arrays_are_another_run(self, tmp_path):
        images, _ = spectra()
        config = dataclasses.replace(OWN, learning_rate=1e30)
        with pytest.raises(FloatingPointError):
            pretrain(config, out=tmp_path, data=images, encoder=Spectra, **QUICK)
        run = Run.open(tmp_path, encoder=Spectra)
        assert not run.finished and run.evaluation is None and run.picture is None
        with pytest.raises(UsageError, match="RUN must have a checkpoint"):
            _ = run.encoder
        with pytest.raises(UsageError, match="--data must be 'arrays-.*, got 'arrays-"):
            pretrain(config, out=tmp_path, data=images + 1, encoder=Spectra, **QUICK)


class TestErrors:
    @pytest.mark.parametrize(
        "data, message",
        [
            (np.zeros((4, 8, 8, 1)), "`data` must hold uint8 `images`, .* got float64"),
            (np.zeros((4, 8), np.uint8), r"got uint8 \(4, 8\)"),
            (
                (np.zeros((4, 8, 8), np.uint8), np.zeros(3, int)),
                r"`data` must hold an integer label for each of the 4 images",
            ),
            ((1, 2, 3), "a pair of images and labels, got 3 items"),
            (np.zeros((4, 8, 8, 2), np.uint8), "--channels must be 1 or 3, got 2"),
        ],
    )
    def test_arrays(self, data, message):
        with pytest.raises(UsageError, match=message):
            pretrain(tiny(), data=data, console=None)

    def test_encoders(self):
        with pytest.raises(TypeError, match="`encoder` must be a flax.nnx.Module or"):
            pretrain(tiny(), encoder=3, console=None)
        with pytest.raises(ValueError, match="must have `out_features`.* got LayerNor"):
            pretrain(tiny(), encoder=lambda rngs: nnx.LayerNorm(3, rngs=rngs))

        class Caching(Spectra):
            def __init__(self, rngs):
                super().__init__(rngs)
                self.last = nnx.Cache(jnp.zeros(3))

        with pytest.raises(ValueError, match="nnx.RngState, got Cache in .*Caching"):
            pretrain(tiny(), encoder=Caching)

    @pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
    def test_features_that_are_not_as_promised(self, tmp_path):
        class Promising(Spectra):
            def __init__(self, rngs):
                super().__init__(rngs)
                self.out_features = 8

        message = (
            r"\(batch, out_features\), \(32, 8\), got \(32, 16\) from .*:.*Promising"
        )
        out = tmp_path / "run"
        with pytest.raises(UsageError, match=message):
            pretrain(OWN, out=out, data=spectra(), encoder=Promising, **QUICK)
        assert not out.exists()

    def test_connected_processes_are_not_connected_again(self, monkeypatch):
        monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
        monkeypatch.delattr(jax.distributed, "initialize")
        processes.connect(Launch(out=Path("run"), distributed=True))

    def test_processes_connect_before_an_encoder_can_start_jax(self, monkeypatch):
        def connect(launch):
            raise Interrupted

        monkeypatch.setattr(api.processes, "connect", connect)
        with pytest.raises(Interrupted):
            pretrain(tiny(), encoder=lambda rngs: Spectra(jax.devices()))

    def test_a_path_is_not_the_name_of_a_data_set(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(api, "run", lambda config, *_, **__: seen.append(config))
        (tmp_path / "digits").mkdir()
        PIL.Image.new("L", (8, 8)).save(tmp_path / "digits" / "a.png")
        config, seen = recipes.images(Path("digits"), epochs=1), []
        assert config.data == str(tmp_path / "digits")
        for data in ("digits", Path("digits")):
            pretrain(config, data=data, console=None)
        assert [config.data for config in seen] == ["digits", config.data]

    def test_settings(self):
        with pytest.raises(TypeError, match="worker"):
            pretrain(tiny(), worker=3)
        with pytest.raises(UsageError, match="`compile_only` must be None"):
            pretrain(tiny(), compile_only="v5e:8x8")

    def test_no_run(self, tmp_path):
        with pytest.raises(ValueError, match="must be the directory of a run, got"):
            Run.open(tmp_path)
