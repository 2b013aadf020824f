"""Runs that are extended by more epochs, and what is refused."""

import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console
from runs import tiny
from spectra import OWN, QUICK, Spectra, spectra

from vicreg_jax.pretrain import pretrain, run_folder
from vicreg_jax.pretrain.config import Launch
from vicreg_jax.pretrain.network import schedule
from vicreg_jax.pretrain.processes import Interrupted, Interruption


def extended(out, epochs, labels):
    """Returns a run of spectra of two steps an epoch, and what it printed."""
    shown = io.StringIO()
    options = QUICK | {"console": Console(file=shown)}
    config = dataclasses.replace(OWN, epochs=epochs)
    data = spectra(96) if labels else spectra(80)[0]
    run = pretrain(config, out=out, data=data, encoder=Spectra, **options)
    return run, " ".join(shown.getvalue().split())


def rates(epochs):
    """Returns the learning rate of each step of a run of so many epochs."""
    rate = schedule(dataclasses.replace(OWN, epochs=epochs), steps_per_epoch=2)
    return [float(rate(step)) for step in range(2 * epochs)]


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
@pytest.mark.parametrize("labels", [False, True])
def test_a_stopped_and_then_a_finished_run(tmp_path, monkeypatch, labels):
    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "asked", lambda _, done: done == 3)
        with pytest.raises(Interrupted, match="after step 3"):
            extended(tmp_path, 2, labels)
    finished, shown = extended(tmp_path, 3, labels)
    assert "Extending the run from 2 to 3 epochs. The learning rate now" in shown
    assert "Going on after step 3, at a learning rate of" in shown
    assert not (tmp_path / "probes-2-epochs.json").exists()
    before, evaluation = finished.metrics, finished.evaluation

    run, shown = extended(tmp_path, 4, labels)
    assert "Extending the run from 3 to 4 epochs." in shown
    assert "Going on after step 6, at a learning rate of" in shown
    assert run.finished and run.config.epochs == 4
    metrics = run.metrics
    np.testing.assert_array_equal(metrics["step"], np.arange(8))
    for name in ("loss", "order"):
        np.testing.assert_array_equal(metrics[name][:6], before[name])
    assert len(set(metrics["order"])) == 8  # the images of new epochs
    followed = [*rates(2)[:3], *rates(3)[3:], *rates(4)[6:]]
    np.testing.assert_allclose(metrics["learning_rate"], followed, rtol=1e-6)
    assert followed[6] > followed[5]
    kept = json.loads((tmp_path / "probes-3-epochs.json").read_text())
    assert kept == (evaluation or {}) and bool(kept) == labels
    assert set(run.evaluation or {}) == set(kept)
    about = run.encoder.about
    assert (about["step"], about["epochs"]) == (8, 4)
    starts = json.loads((tmp_path / "run.json").read_text())
    assert [start["epochs"] for start in starts] == [2, 3, 4]


class TestFolder:
    def claim(self, out, **changes):
        """Claims a directory as a run does, and returns what it printed."""
        shown = []
        launch = Launch(out=out)
        claim = run_folder.claim(tiny(**changes), launch, images=9, notify=shown.append)
        with claim:
            pass
        return shown

    def finish(self, out, **changes):
        self.claim(out, **changes)
        (out / "checkpoints" / "00000011").mkdir(parents=True)
        run_folder.write_json(out / "probes.json", {})

    def test_fewer_epochs_are_refused(self, tmp_path):
        self.finish(tmp_path, epochs=3)
        message = "--epochs must be at least 3 as in the run in .*, got 2; for another"
        with pytest.raises(ValueError, match=message):
            self.claim(tmp_path, epochs=2)
        with pytest.raises(FileExistsError, match="extended by larger --epochs"):
            self.claim(tmp_path, epochs=3)
        assert run_folder.finished(tmp_path)

    @pytest.mark.parametrize("changes", [{"nu": 2.0}, {"seed": 1}])
    def test_another_change_is_refused_by_its_name(self, tmp_path, changes):
        self.finish(tmp_path)
        (name,) = changes
        with pytest.raises(ValueError, match=f"--{name} must be .* as in the run"):
            self.claim(tmp_path, epochs=2, **changes)
        assert run_folder.read_config(tmp_path) == tiny()

    def test_a_finished_run_without_checkpoints_is_refused(self, tmp_path):
        self.finish(tmp_path)
        (tmp_path / "checkpoints" / "00000011").rmdir()
        with pytest.raises(ValueError, match="--out must hold a checkpoint to extend"):
            self.claim(tmp_path, epochs=2)
        assert run_folder.finished(tmp_path)

    def test_killed_while_it_starts_it_is_a_stopped_run(self, tmp_path, monkeypatch):
        self.finish(tmp_path)

        def killed(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(run_folder, "write_json", killed)
            self.claim(tmp_path, epochs=2)
        assert not run_folder.finished(tmp_path)
        assert run_folder.read_config(tmp_path) == tiny()
        (printed,) = self.claim(tmp_path, epochs=2)
        assert printed.startswith("Extending the run from 1 to 2 epochs")
        assert (tmp_path / "probes-1-epochs.json").exists()
        assert self.claim(tmp_path, epochs=2) == []
