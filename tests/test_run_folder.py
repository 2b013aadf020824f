"""The directory of a run, and the metrics written into it."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import pytest
import runs
from runs import MIRRORED, tiny

from vicreg_jax.augment import DigitViews
from vicreg_jax.pretrain import recipes, records, run_folder
from vicreg_jax.pretrain.config import Launch
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.export import newest
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
        message = "must be a run of this version of vicreg_jax, got"
        with pytest.raises(ValueError, match=f"^RUN {message}"):
            run_folder.read_config(tmp_path)
        with (
            pytest.raises(ValueError, match=f"^--out {message}"),
            run_folder.claim(tiny(), Launch(out=tmp_path), images=9),
        ):
            pass

    @pytest.mark.parametrize(
        "views, message",
        [
            (
                DigitViews(8, pen=0.2),
                "--views.pen must be 0.7 as in the run in .*, got 0",
            ),
            (MIRRORED, "--views must be '.*:DigitViews' as in .*, got '.*:MirroredVie"),
        ],
    )
    def test_other_views_are_named_by_their_flag(self, tmp_path, views, message):
        launch = Launch(out=tmp_path / "run")
        with run_folder.claim(tiny(), launch, images=9):
            pass
        with (
            pytest.raises(UsageError, match=message),
            run_folder.claim(tiny(views=views), launch, images=9),
        ):
            pass

    def test_a_classifier_of_the_other_kind_is_named_as_typed(self, tmp_path):
        stored = {"protocol": "linear", "images": 9}
        run_folder.write_json(tmp_path / "config.json", stored)
        message = "--out must be a pretraining run, got .*, which holds a classifier"
        with (
            pytest.raises(UsageError, match=message),
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

    def test_a_default_name_has_no_brackets(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        photos = tiny(data="photos [2024]")
        with run_folder.claim(photos, Launch(), images=9) as first:
            assert first.name.startswith("photos _2024_-")
        assert run_folder.choose(photos, Launch()) == first

    @pytest.mark.parametrize("name", ["r[old]/one", "a]", "run*", "is?"])
    def test_a_path_with_wildcards_is_refused(self, name, tmp_path, monkeypatch):
        launch = Launch(out=tmp_path / name)
        with pytest.raises(UsageError, match=r"--out must have none of \[ \] \* \? in"):
            run_folder.choose(tiny(), launch)
        launch.out.mkdir(parents=True)
        monkeypatch.chdir(launch.out)
        for relative in (None, Path("run")):
            with pytest.raises(UsageError, match="--out must have none"):
                run_folder.choose(tiny(), Launch(out=relative))
        content = run_folder.contents(tiny(), images=9)
        run_folder.write_json(launch.out / "config.json", content)
        with pytest.raises(UsageError, match="RUN must have none"):
            newest(launch.out)

    @pytest.mark.parametrize("recipe", recipes.RECIPES.values())
    def test_a_configuration_survives_its_file(self, recipe, tmp_path):
        run_folder.write_json(
            tmp_path / "config.json", run_folder.contents(recipe(), images=9)
        )
        expected = recipe()
        for name in ("data", "test_data"):
            if path := getattr(expected, name):
                changes = {name: run_folder.absolute(path)}
                expected = dataclasses.replace(expected, **changes)
        assert run_folder.read_config(tmp_path) == expected

    def test_paths_hold_in_other_directories(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "below").mkdir()
        config = tiny(data="photos", test_data="../others", init="a.safetensors")
        with run_folder.claim(config, Launch(), images=9) as run:
            assert run.name.startswith("photos-")
        monkeypatch.chdir("below")
        found = run_folder.read_config(Path("..", run))
        assert found.data == str(tmp_path / "photos")
        assert found.test_data == str(tmp_path.parent / "others")
        assert found.init == str(tmp_path / "a.safetensors")
        with (
            pytest.raises(UsageError, match="--data must be '.*photos' as in the run"),
            run_folder.claim(config, Launch(out=Path("..", run)), images=9),
        ):
            pass

    def test_relative_paths_of_older_runs(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        config = tiny(data="photos")
        content = run_folder.contents(config, images=9) | {"data": "photos"}
        run = tmp_path / "runs" / "photos-1"
        run.mkdir(parents=True)
        run_folder.write_json(run / "config.json", content)
        with run_folder.claim(config, Launch(), images=9) as again:
            assert again.absolute() == run
        stored = json.loads((run / "config.json").read_text())
        assert stored["data"] == str(tmp_path / "photos")

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

    @pytest.mark.parametrize("name", ["covariance", "gradient_norm", "local_variance"])
    def test_the_step_and_the_term_that_broke(self, tmp_path, name):
        log = runs.log(tmp_path)
        for step in range(3):
            value = jnp.asarray(jnp.nan if step else 1.0)
            # Whatever breaks, the gradient is no longer finite either.
            broken = self.step(**{name: value, "gradient_norm": value})
            log.add(step, broken, order=0)
        message = f"the {name.replace('_', ' ')} is no longer finite at step 1"
        with pytest.raises(FloatingPointError, match=message):
            log.write()
