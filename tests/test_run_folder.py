"""The run folder, and the metrics written into it."""

import jax.numpy as jnp
import pytest
import runs
from runs import tiny

from vicreg_jax.pretrain import recipes, records, run_folder
from vicreg_jax.pretrain.config import Launch
from vicreg_jax.pretrain.step import Metrics


class TestFolder:
    def test_another_configuration_is_refused(self, tmp_path):
        launch = Launch(out=tmp_path)
        with run_folder.claim(tiny(), launch, images=9):
            pass
        message = r"--width must be 4 as in the run .*, got 8; for another run give"
        with (
            pytest.raises(ValueError, match=message),
            run_folder.claim(tiny(width=8), launch, images=9),
        ):
            pass

    def test_another_number_of_images_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with run_folder.claim(tiny(), Launch(), images=9) as first:
            pass
        message = (
            "--data must have 9 training images as in the run .*, got 8; for another"
        )
        for launch in (Launch(), Launch(out=first)):
            with (
                pytest.raises(ValueError, match=message),
                run_folder.claim(tiny(), launch, images=8),
            ):
                pass

    def test_a_run_of_another_version_is_refused(self, tmp_path):
        content = run_folder.contents(tiny(), images=9)
        del content["images"]
        run_folder.write_json(tmp_path / "config.json", content)
        message = "RUN must be a run of this version of vicreg_jax, got"
        with pytest.raises(ValueError, match=message):
            run_folder.read_config(tmp_path)
        with (
            pytest.raises(ValueError, match=message),
            run_folder.claim(tiny(), Launch(out=tmp_path), images=9),
        ):
            pass

    def test_two_processes_do_not_share_one(self, tmp_path):
        launch = Launch(out=tmp_path)
        with (
            run_folder.claim(tiny(), launch, images=9),
            pytest.raises(FileExistsError, match="--out must not be in use"),
            run_folder.claim(tiny(), launch, images=9),
        ):
            pass

    def test_the_same_command_finds_its_unfinished_run(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with run_folder.claim(tiny(), Launch(), images=9) as first:
            assert first.parent.name == "runs"
            assert run_folder._unfinished(tiny()) is None
        with run_folder.claim(tiny(), Launch(), images=9) as again:
            assert again == first
        assert run_folder._unfinished(tiny(seed=1)) is None
        run_folder.write_json(first / "probes.json", {})
        assert run_folder._unfinished(tiny()) is None

    @pytest.mark.parametrize("recipe", recipes.RECIPES.values())
    def test_a_configuration_survives_its_file(self, recipe, tmp_path):
        run_folder.write_json(
            tmp_path / "config.json", run_folder.contents(recipe(), images=9)
        )
        assert run_folder.read_config(tmp_path) == recipe()

    def test_no_run(self, tmp_path):
        with pytest.raises(ValueError, match="RUN must be the directory of a run, got"):
            run_folder.read_config(tmp_path)


class TestLog:
    def step(self, **changes):
        usual = Metrics(*map(jnp.asarray, (3.0, 0.1, 0.2, 0.3, 1.0, 0.01, 2.0)))
        return usual._replace(**changes)

    def test_steps_are_written_once_and_late(self, tmp_path):
        log = runs.log(tmp_path)
        for step in range(3):
            log.add(step, self.step(), order=step)
        assert log.write(leave=1)["step"] == 1
        assert log.write()["step"] == 2 and log.write() is None
        lines = records.read(tmp_path / "metrics.jsonl")
        assert [line["step"] for line in lines] == [0, 1, 2]
        assert [line["epoch"] for line in lines] == [0, 0, 1]
        assert lines[2]["order"] == "0000000000000002"
        assert list(lines[0])[:4] == ["step", "epoch", "loss", "invariance"]

    def test_what_came_after_the_checkpoint_is_taken_out(self, tmp_path):
        log = runs.log(tmp_path)
        for step in range(4):
            log.add(step, self.step(), order=0)
            log.quick_check({"step": step + 1})
        log.write()
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 4, "ep')  # cut off by a crash
        runs.log(tmp_path, first=2)
        steps = records.read(tmp_path / "metrics.jsonl")
        checks = records.read(tmp_path / "evaluations.jsonl")
        assert [line["step"] for line in steps] == [0, 1]
        assert [line["step"] for line in checks] == [1, 2]

    def test_a_quick_check_writes_the_steps_before_it(self, tmp_path):
        log = runs.log(tmp_path)
        for step in range(3):
            log.add(step, self.step(), order=step)
        log.quick_check({"step": 3})
        assert len(records.read(tmp_path / "metrics.jsonl")) == 3
        assert log.write()["step"] == 2 and log.write() is None
        assert len(records.read(tmp_path / "metrics.jsonl")) == 3

    @pytest.mark.parametrize("name", ["covariance", "gradient_norm"])
    def test_the_step_and_the_term_that_broke(self, tmp_path, name):
        log = runs.log(tmp_path)
        for step in range(3):
            value = jnp.asarray(jnp.nan if step else 1.0)
            log.add(step, self.step(**{name: value}), order=0)
        message = f"the {name.replace('_', ' ')} is no longer finite at step 1"
        with pytest.raises(FloatingPointError, match=message):
            log.write()
