"""The pretraining job: a whole run on the digits, and what it refuses."""

import dataclasses
import importlib.metadata
import json
import math
import os
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick_compilation
from grids import thinned
from matplotlib.figure import Figure
from matplotlib.image import imread
from processes import PROGRAMS, completed
from runs import QUIET, tiny, traced

from vicreg_jax.augment import ImageViews
from vicreg_jax.convert import load_state_dict, read
from vicreg_jax.encoder import load_encoder
from vicreg_jax.pretrain import __main__ as command_line_module
from vicreg_jax.pretrain import (
    compilation,
    evaluation,
    recipes,
    records,
    report,
    step,
)
from vicreg_jax.pretrain.__main__ import main, parse
from vicreg_jax.pretrain.commands import Pretrain, Report
from vicreg_jax.pretrain.config import Config, Launch
from vicreg_jax.pretrain.errors import UsageError
from vicreg_jax.pretrain.export import export, newest, probe
from vicreg_jax.pretrain.loop import _whole_epochs
from vicreg_jax.pretrain.mesh import make_mesh
from vicreg_jax.pretrain.network import build
from vicreg_jax.pretrain.report import redraw
from vicreg_jax.pretrain.run import run
from vicreg_jax.pretrain.step import Programs
from vicreg_jax.probe import accuracies

# Of a linear probe on all labels, after 8 epochs. Two seeds reached .958, as do raw
# pixels; without one term's gradient .869 to .911, untrained .869.
LEARNED = 0.93


@pytest.fixture(scope="module")
def programs_kept(tmp_path_factory):
    """Compiles once what several runs share: all but their training steps."""
    with compilation.kept_in(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures(
    "optimized", "programs_kept", "relaxed_promotion", "unchecked_signatures"
)
@pytest.mark.parametrize("changes", [{"lambd": 0.0}, {"mu": 0.0}, {"nu": 0.0}])
def test_a_run_without_a_term_does_not_learn(tmp_path, monkeypatch, changes):
    """What the next test asks is out of its reach."""
    monkeypatch.setattr("sklearn.manifold.TSNE", FirstTwoColumns)
    # Neither other features nor fewer labels, which take as long as the training.
    monkeypatch.setattr(evaluation, "_baselines", lambda *_, **__: {})
    monkeypatch.setattr(accuracies, "_SHARES", (1.0,))
    # The step compiles in two thirds of the time, and takes 17% longer.
    usual = step.compiler_options
    faster = {"xla_backend_optimization_level": 1}
    monkeypatch.setattr(step, "compiler_options", lambda mesh: usual(mesh) | faster)
    config = dataclasses.replace(recipes.digits(), epochs=8, **changes)
    launch = Launch(out=tmp_path, mesh="data=1", probe_every=0, tensorboard=False)
    assert run(config, launch, QUIET)["VICReg"]["linear 100%"] < LEARNED


@pytest.mark.slow
@pytest.mark.usefixtures(
    "optimized", "programs_kept", "relaxed_promotion", "unchecked_signatures"
)
def test_a_run_learns_and_writes_everything_down(tmp_path):
    out = tmp_path / "run"
    config = dataclasses.replace(recipes.digits(), epochs=8)
    launch = Launch(out=out, mesh="data=1", probe_every=4, profile="8:2")
    found = run(config, launch, QUIET)
    assert list(found) == ["raw pixels", "untrained", "VICReg"]
    assert found["VICReg"]["k-NN"] > found["untrained"]["k-NN"]
    assert found["VICReg"]["linear 100%"] > LEARNED > found["untrained"]["linear 100%"]
    history = records.read(out / "metrics.jsonl")
    assert [line["step"] for line in history] == list(range(8 * (1437 // 128)))
    for line in history:
        total = 25 * line["invariance"] + 25 * line["variance"] + line["covariance"]
        np.testing.assert_allclose(line["loss"], total, rtol=1e-5)
        assert 0 < line["std"] < 3 and line["gradient_norm"] > 0
    assert history[-1]["images_per_second"] > 0 and 0 <= history[-1]["waiting"] <= 1
    steps_per_second = history[-1]["images_per_second"] / 128
    tflops = history[-1]["tflops_per_device"]
    # What the unoptimized program has; the compiler's changes are small.
    flops = unoptimized_flops(config)
    assert 1e12 * tflops / steps_per_second == pytest.approx(flops, rel=0.3)
    assert traced(out / "profile") == [8, 9]
    assert len({line["order"] for line in history}) == len(history)
    # One batch's loss is off by about 1; with hardly a step it falls by 0.25.
    assert history[-1]["loss"] < history[0]["loss"] - 2
    # Each term does its part: 1.4 without the invariance, .01 without the variance, 968
    # without the covariance.
    assert history[-1]["invariance"] < 0.5 and history[-1]["std"] > 0.4
    assert history[-1]["covariance"] < 50
    checks = records.read(out / "evaluations.jsonl")
    assert [line["epoch"] for line in checks] == [4, 8]
    assert checks[-1]["k-NN"] > 0.8 and checks[-1]["effective_rank"] > 5
    assert list((out / "tensorboard").iterdir())
    choices = json.loads((out / "config.json").read_text())
    assert choices["epochs"] == 8 and choices["views"]["grid"] == 4
    assert json.loads((out / "probes.json").read_text()) == found
    with pytest.raises(FileExistsError, match="--out must not hold a finished run"):
        run(config, Launch(out=out), QUIET)

    (out / "report.png").unlink()
    assert redraw(out) == found
    assert imread(out / "report.png").std() > 0.05
    probed = probe(out)
    assert probed.accuracies["VICReg"] == found["VICReg"]
    stored = json.loads((out / "probes-digits.json").read_text())
    assert probed.file == out / "probes-digits.json"
    assert stored["accuracies"] == probed.accuracies
    assert stored["step"] == len(history)
    assert (stored["train_images"], stored["held_out_images"]) == (1437, 360)
    assert stored["classes"] == 10 and "fitted to 1437 images" in probed.summary
    assert "step 88, 10 classes of digits" in probed.summary
    exported(out)


def unoptimized_flops(config):
    programs = Programs(config, make_mesh("data=1"), 11)
    images = jax.ShapeDtypeStruct((config.batch, 8, 8, 1), jnp.uint8)
    lowered = programs.train.lower(
        programs.state_shapes, images, jnp.ones(config.batch)
    )
    return lowered.cost_analysis()["flops"]


def exported(out):
    """Checks that the exported encoder is the run's."""
    path = export(out)
    programs, state = newest(out)
    images = jnp.linspace(0, 1, 5 * 64).reshape(5, 8, 8, 1)
    wanted = programs.network(state).encoder
    wanted.eval()
    with quick_compilation.most_optimizations(False):
        other = build(dataclasses.replace(programs.config, seed=1)).encoder
    other.eval()
    assert jnp.any(other(images) != wanted(images))
    load_state_dict(other, read(path))
    np.testing.assert_array_equal(other(images), wanted(images))
    assert load_encoder(out).model.out_features == wanted.out_features


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
def test_a_run_stops_before_it_saves_what_is_not_finite(tmp_path):
    config = tiny(learning_rate=1e30, epochs=2)
    with pytest.raises(FloatingPointError, match="is no longer finite at step [1-9]"):
        run(config, Launch(out=tmp_path, mesh="data=1", tensorboard=False), QUIET)
    assert not list((tmp_path / "checkpoints").glob("*"))
    last = records.read(tmp_path / "metrics.jsonl")[-1]
    assert not all(math.isfinite(last[name]) for name in ("loss", "gradient_norm"))


def test_refuses_a_batch_larger_than_the_data(tmp_path):
    launch = Launch(out=tmp_path / "new")
    with pytest.raises(UsageError, match=r"--batch must be at most .* 1437, .* 2000"):
        run(tiny(batch=2000), launch, QUIET)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name, value", [("batch", 1), ("width", 0), ("epochs", 0), ("warmup", 1.0)]
)
def test_refuses_what_could_not_run(name, value):
    with pytest.raises(UsageError, match=f"--{name} must be at least .*, got {value}"):
        Config(**{name: value})


@pytest.mark.parametrize("name", ["lambd", "mu", "nu", "weight_decay"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_refuses_weights_that_are_none(name, value):
    message = f"--{name.replace('_', '-')} must be finite and at least 0, got {value}"
    with pytest.raises(UsageError, match=message):
        Config(**{name: value})


@pytest.mark.parametrize("name", ["learning_rate", "trust_coefficient"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_refuses_rates_that_are_none(name, value):
    message = f"--{name.replace('_', '-')} must be finite and above 0, got {value}"
    with pytest.raises(UsageError, match=message):
        Config(**{name: value})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"channels": 2}, "--channels must be 1 or 3, got 2"),
        ({"accumulate": 3}, "--batch must be a multiple of --accumulate, 3, got 128"),
        ({"warmup": None, "epochs": 10}, "--epochs must be above 10, .* got 10"),
        (
            {"encoder": "vit_small", "views": ImageViews(size=32, local_views=2)},
            "--views.local-size must be --views.size, 32, with .* vit_small, got 96",
        ),
        (
            {
                "encoder": "convnext_tiny",
                "views": ImageViews(size=64, local_views=2, local_size=16),
            },
            "--views.local-size must be at least 32 with .* convnext_tiny, got 16",
        ),
    ],
)
def test_refuses_what_does_not_go_together(changes, message):
    with pytest.raises(UsageError, match=message):
        Config(**changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"log_every": 0}, "--log-every must be at least 1, got 0"),
        ({"checkpoint_every": 0}, "--checkpoint-every must be at least 1, got 0"),
        ({"distributed": True}, "--out must be given with --distributed"),
        ({"num_processes": 2}, "--num-processes must be given with --distributed"),
        ({"process_id": 0}, "--process-id must be given with --distributed"),
        ({"coordinator": "a:1"}, "--coordinator must be given with --distributed"),
        ({"heartbeat": 9}, "--heartbeat must be given with --distributed"),
        ({"force_workers": True}, "--force-workers must be given with --workers only"),
    ],
)
def test_refuses_what_could_not_be_carried_out(changes, message):
    with pytest.raises(UsageError, match=message):
        Launch(**changes)


@pytest.mark.parametrize(
    "epoch, between", [(1, 300), (62, 310), (300, 300), (625, 625)]
)
def test_checkpoints_are_whole_epochs_apart_but_not_too_near(epoch, between):
    assert _whole_epochs(epoch) == between


@pytest.mark.parametrize("mesh", ["data", "data=0", "data=2,data=2", "data=16", ""])
def test_refuses_a_mesh_that_is_none(mesh):
    with pytest.raises(UsageError, match="--mesh must .*, got"):
        make_mesh(mesh)


def test_refuses_a_batch_that_does_not_spread(tmp_path):
    message = (
        r"--batch must be a multiple of 8 \(8 devices\), got 100; --mesh can select few"
    )
    with pytest.raises(UsageError, match=message):
        run(tiny(batch=100), Launch(out=tmp_path), QUIET)


@pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
@pytest.mark.parametrize("name", ["notes.txt", "checkpoints/x"])
def test_refuses_a_directory_that_holds_other_things(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    message = f"--out must be a new or empty directory.* holds {name.split('/')[0]}$"
    with pytest.raises(UsageError, match=message):
        run(tiny(), Launch(out=tmp_path), QUIET)
    assert (tmp_path / name).read_text() == "mine"
    with pytest.raises(UsageError, match="--out must be a directory, got the file"):
        run(tiny(), Launch(out=tmp_path / name), QUIET)


class TestReport:
    """The picture of a run, and its map of held-out features."""

    check = {"step": 4, "effective_rank": 9.0, "covariance": 3.0}
    check |= {"covariance_floor": 1.0}

    def titles(self, run_folder, accuracies):
        """Returns the titles of the panels, all of which show something."""
        found = []
        for draw, content in report._panels(run_folder, accuracies):
            axes = Figure().subplots()
            draw(axes, content)
            assert axes.has_data()
            found.append(axes.get_title())
        return found

    def write(self, run_folder, *, checks=()):
        line = {"step": 0, "invariance": 1.0, "variance": 1.0, "covariance": 1.0}
        lines = [line, line | {"step": 1, "invariance": 0.5}]
        for name, content in (("metrics", lines), ("evaluations", checks)):
            text = "".join(json.dumps(line) + "\n" for line in content)
            (run_folder / f"{name}.jsonl").write_text(text)
        (run_folder / "config.json").write_text("{}")

    def test_a_run_without_labels_shows_its_quick_checks(self, tmp_path):
        self.write(tmp_path, checks=[self.check, self.check | {"step": 8}])
        terms, rank, covariance = self.titles(tmp_path, {})
        assert terms.startswith("Loss terms") and rank.startswith("Effective rank")
        assert covariance == "Covariance of both views and its floor"

    def test_a_run_without_quick_checks_has_one_panel(self, tmp_path):
        self.write(tmp_path)
        assert len(self.titles(tmp_path, {})) == 1

    def test_an_unfinished_run(self, tmp_path):
        with pytest.raises(UsageError, match="RUN must be the directory of a run, got"):
            redraw(tmp_path)
        self.write(tmp_path, checks=[self.check | {"k-NN": 0.5}])
        assert self.titles(tmp_path, {})[3] == "k-NN probe"
        assert redraw(tmp_path) == {}
        assert imread(tmp_path / "report.png").std() > 0.05
        (tmp_path / "metrics.jsonl").unlink()
        with pytest.raises(UsageError, match="RUN must have metrics, got .* none yet"):
            redraw(tmp_path)

    @pytest.mark.parametrize("kinds", [1, 2, 3])
    def test_bars_are_centered_on_their_probe(self, kinds):
        axes = Figure().subplots()
        by_probe = {"linear": 0.5, "k-NN": 0.6}
        report._draw_probes(axes, {f"kind {i}": by_probe for i in range(kinds)})
        centers = [[bar.get_center()[0] for bar in bars] for bars in axes.containers]
        assert len(centers) == kinds
        np.testing.assert_allclose(np.mean(centers, 0), axes.get_xticks(), atol=1e-9)

    def test_a_classifier(self, tmp_path, capsys):
        self.write(tmp_path)
        steps = [{"step": step, "loss": 1.0, "accuracy": 0.5} for step in range(2)]
        tops = [(0.5, 0.25), (0.7, 0.25), (0.6, 0.5)]
        tests = [
            {"step": 2 * epoch, "epoch": epoch, "top-1 at 0.1": a, "top-1 at 2": b}
            for epoch, (a, b) in enumerate(tops, start=1)
        ]
        for name, content in (("metrics", steps), ("evaluations", tests)):
            text = "".join(json.dumps(line) + "\n" for line in content)
            (tmp_path / f"{name}.jsonl").write_text(text)
        losses, heads = self.titles(tmp_path, {})
        assert losses.startswith("Cross-entropy") and heads == "Top-1 of each head"
        Report(tmp_path).run()
        words = capsys.readouterr().out.replace("\u2502", " ").split()
        text = " ".join(words)
        assert "head" in words and "features" not in words
        assert "lr 0.1 60.0 70.0 (epoch 2)" in text
        assert "lr 2 50.0 50.0 (epoch 3)" in text
        assert (tmp_path / "report.png").exists()

    def test_the_map_shows_a_sample_of_all_classes(self, monkeypatch):
        monkeypatch.setattr(report, "_MAPPED", 60)
        monkeypatch.setattr("sklearn.manifold.TSNE", FirstTwoColumns)
        labels = np.repeat(np.arange(12), 30)  # sorted, as test data often are
        features = np.random.default_rng(0).standard_normal((360, 4))
        held_out = {"features": features, "labels": labels, "classes": np.array([])}
        drawn = []
        for _ in range(2):
            axes = Figure().subplots()
            report._draw_map(axes, held_out)
            drawn.append(axes.collections[0].get_offsets())
            assert len(axes.get_legend().get_texts()) == 12
        assert len(drawn[0]) == 60
        np.testing.assert_array_equal(*drawn)

    @pytest.mark.parametrize(
        "count, names, wanted",
        [
            (3, ["cat", "dog", "eel"], ["cat", "dog", "eel"]),
            (3, [], ["0", "1", "2"]),
            (12, ["cat"], ["cat", *map(str, range(1, 12))]),
            (21, [], None),
        ],
    )
    def test_the_legend_names_the_classes(self, count, names, wanted):
        labels = np.arange(3 * count) % count
        features = np.random.default_rng(0).standard_normal((len(labels), 4))
        axes = Figure().subplots()
        held_out = {"features": features, "labels": labels}
        report._draw_map(axes, held_out | {"classes": np.array(names, str)})
        legend = axes.get_legend()
        assert (legend and [text.get_text() for text in legend.get_texts()]) == wanted

    def test_a_class_that_is_absent_moves_no_name(self):
        held_out = {
            "features": np.random.default_rng(0).standard_normal((8, 4)),
            "labels": np.arange(8) % 2 * 2,
            "classes": np.array(["cat", "dog", "eel"]),
        }
        axes = Figure().subplots()
        report._draw_map(axes, held_out)
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert texts == ["cat", "eel"]


class FirstTwoColumns:
    """Stands in for the slow t-SNE."""

    def __init__(self, **_):
        pass

    def fit_transform(self, features):
        return features[:, :2]


def command_line(capsys, monkeypatch, *arguments):
    """Returns how `main` ends in this process, and what it prints to both streams."""
    monkeypatch.setattr(sys, "argv", ["vicreg-pretrain", *map(str, arguments)])
    try:
        main()
        status = 0
    except SystemExit as ended:
        status = ended.code
    return status, "".join(capsys.readouterr())


class TestCommandLine:
    @pytest.mark.parametrize(
        "arguments, status, printed",
        [
            (["mnist", "--help"], 0, "Weight of the invariance term"),
            (["--data", "cats"], 2, "--data must be mnist, digits, elpv, "),
            *thinned(
                [
                    (["--data", "digits", "--batch", "1"], 2, "--batch must be at le"),
                    (["report", "nowhere"], 2, "RUN must be the directory of a run"),
                    (["export", "nowhere"], 2, "RUN must be the directory of a run"),
                ],
                keep=[],
            ),
        ],
    )
    def test_ends_as_promised(self, arguments, status, printed):
        done = completed("-m", "vicreg_jax.pretrain", *arguments)
        assert done.returncode == status
        assert printed in done.stdout + done.stderr
        assert "Traceback" not in done.stderr

    def test_help_lists_recipes_and_commands_in_one_line_each(
        self, capsys, monkeypatch
    ):
        monkeypatch.setenv("COLUMNS", "120")
        status, printed = command_line(capsys, monkeypatch, "--help")
        assert status == 0
        _, _, listed = printed.partition("subcommands")
        for name in (*recipes.RECIPES, "export", "probe", "embed", "report"):
            assert len(re.findall(rf"• {name} +\w.+\.", listed)) == 1, name
        status, printed = command_line(capsys, monkeypatch, "--version")
        assert (status, printed) == (0, f"{importlib.metadata.version('vicreg_jax')}\n")

    @pytest.mark.parametrize(
        "arguments, near",
        [
            (["mnits"], "'mnist'"),
            (["imagnet", "--epochs", "3"], "'imagenet'"),
            (["exprot", "runs/a"], "'export'"),
            (["digits", "--epchs", "3"], "--epochs"),
            (["--epchs", "3", "--data", "digits"], "--epochs"),
        ],
    )
    def test_typos_get_the_nearest_name(self, capsys, monkeypatch, arguments, near):
        status, printed = command_line(capsys, monkeypatch, *arguments)
        assert status == 2 and near in printed
        assert printed.count("\n") == 1 and "did you mean" in printed
        known = "digits " if "digits" in arguments else ""
        assert printed.endswith(f"See vicreg-pretrain {known}--help\n")

    @pytest.mark.usefixtures("relaxed_promotion")
    @pytest.mark.parametrize(
        "arguments, message",
        [
            ("digits --batch 1", "--batch must be at least 2, got 1"),
            ("digits --batch 2000", "--batch must be at most the number of images"),
            ("digits --batch 100", "--batch must be a multiple of 8 (8 devices)"),
            ("digits --nu nan", "--nu must be finite and at least 0, got nan"),
            ("digits --learning-rate -1", "--learning-rate must be finite and above"),
            ("digits --size 9", "--data must hold images of shape (--size, --size"),
            ("digits --seed 4294967296", "--seed must be from 0 to 2**32 - 1, got"),
            ("digits --mesh data", "--mesh must be such as"),
            ("digits --num-processes 2", "--num-processes must be given with --distr"),
            ("digits --data {}/notes.txt", "notes.txt is another file"),
            ("digits --data {}/absent", "absent does not exist"),
            ("digits --data {}", "--data must hold images, found none in"),
            ("digits --test-data {}", "--test-data must hold images, found none in"),
            ("embed {} --data digits", "ENCODER must be a run with an encoder.saf"),
            ("digits --views.size -1", "--views.size must be at least 1, got -1; see"),
            ("digits --test-data cats", "--test-data must be mnist, digits, elpv,"),
            ("digits --out {}", "--out must be a new or empty directory"),
            ("digits --out {}/notes.txt", "--out must be a directory, got the file"),
            ("digits --compile-only v5e", "--compile-only must be such as v5e:8x8"),
            ("export {}", "RUN must be the directory of a run, got"),
            ("probe {}/notes.txt", "RUN must be the directory of a run, got"),
            ("report {}", "RUN must be the directory of a run, got"),
            ("embed {}/absent --data digits", "ENCODER must be a run or a file that"),
            ("embed {}/notes.txt --data digits", "ENCODER must be a PyTorch file"),
            ("embed {} --data digits --out a.csv", "--out must end in .npz, got a.csv"),
            ("embed a --data digits --out {}/b/c.npz", "c.npz: No such file or dir"),
            ("digits --out {}/notes.txt/a", "--out must be a directory that can be "),
            ("digits --out {}/a --alpha 0.9", "`views` must be vicreg_jax.augment.Loc"),
            ("digits --out {}/a --init b", "--init must be a file or a run, got b"),
            (
                "digits --trust-coefficient 0.1",
                "--trust-coefficient must be given with --optimizer lars only, got 0.1",
            ),
            ("mnist --clip-trust", "--clip-trust must be given with --optimizer lars"),
            ("digits --local-expander 9", "--local-expander must be given with --alph"),
            ("mnist --location-matches 9 9", "--location-matches must be given with -"),
            (
                "imagenet --encoder vit_small --width 9",
                "--width must be given with --e",
            ),
            ("digits --small-images", "--small-images must be given with a ResNet as "),
            ("linear a --lr", "--lr must have at least one rate, got none"),
            ("digits --epochs many", "--epochs: invalid literal for int() with base"),
            ("mnist --data", "'--data'. Expected 1 values; see vicreg-pretrain mnist"),
            ("export", "RUN Directory of the run. (required); see vicreg-pretrain "),
            ("digits --neighbors 3", "--neighbors (applied to vicreg-pretrain digits)"),
            ("imagenet --nope", "--nope; see vicreg-pretrain imagenet --help"),
            ("linear a --nope", "--nope; see vicreg-pretrain linear --help"),
        ],
    )
    def test_what_the_user_can_mend_is_said_in_one_line(
        self, capsys, monkeypatch, tmp_path, arguments, message
    ):
        (tmp_path / "notes.txt").write_text("mine")
        words = arguments.format(tmp_path).split()
        status, printed = command_line(capsys, monkeypatch, *words)
        assert status == 2
        assert printed.startswith("vicreg-pretrain: ") and printed.count("\n") == 1
        assert message in printed
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    def test_a_view_that_cannot_be_is_said_by_its_flag(self, capsys, monkeypatch):
        status, printed = command_line(capsys, monkeypatch, "elpv", "--views.hue", "3")
        assert status == 2 and "Traceback" not in printed
        assert re.search("--views.hue must be from 0 to 0.5, got 3.0", printed)

    @pytest.mark.usefixtures("relaxed_promotion", "unchecked_signatures")
    @pytest.mark.parametrize("bug", [ValueError, ModuleNotFoundError])
    def test_a_bug_in_the_step_is_not_taken_for_the_users(
        self, capsys, monkeypatch, tmp_path, bug
    ):
        def planted(*_):
            raise bug("planted")

        monkeypatch.setattr(Programs, "_terms", planted)
        small = ("--width", 4, "--expander", 16, "--epochs", 1, "--out", tmp_path)
        with pytest.raises(bug, match="planted"):
            command_line(capsys, monkeypatch, "digits", *small)

    def test_a_bug_shows_its_traceback_and_ends_with_1(self, tmp_path):
        done = completed(PROGRAMS / "planted_bug.py", "--out", tmp_path / "run")
        assert done.returncode == 1
        assert "Traceback" in done.stderr and "ValueError: planted" in done.stderr

    @pytest.mark.parametrize(
        "error, status, traceback",
        [
            (UsageError("--mesh is wrong"), 2, False),
            (OSError("the disk is full"), 2, False),
            (PermissionError(13, "Permission denied", "labels.csv"), 2, False),
            (BrokenPipeError(32, "Broken pipe"), 1, True),
            (FloatingPointError("the loss is nan"), 2, False),
            (jax.errors.JaxRuntimeError("a process is lost"), 1, False),
            (ValueError("planted"), 1, True),
        ],
    )
    def test_one_of_several_processes_does_not_wait_for_the_others(
        self, capsys, monkeypatch, error, status, traceback
    ):
        def planted(*_):
            raise error

        monkeypatch.setattr(command_line_module, "parse", planted)
        monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(os, "_exit", sys.exit)
        ended, printed = command_line(capsys, monkeypatch)
        assert ended == status and str(error) in printed
        assert ("Traceback" in printed) == traceback

    @pytest.mark.parametrize(
        "arguments, recipe",
        [
            ([], recipes.mnist),
            (["--seed", "0"], recipes.mnist),
            (["digits"], recipes.digits),
            (["--data", "digits"], recipes.digits),
            (["--data=elpv"], recipes.elpv),
            (["cifar", "--data", "cifar-10-batches-py"], recipes.cifar),
            (["imagenet"], recipes.imagenet),
            (["convnext"], recipes.convnext),
        ],
    )
    def test_recipes_by_name(self, arguments, recipe):
        assert parse(arguments).command.config == recipe()

    def test_the_recipe_that_is_named_goes_before_that_of_the_data(self):
        config = parse(["mnist", "--data", "digits", "--size", "8"]).command.config
        assert config == dataclasses.replace(recipes.mnist(), data="digits", size=8)

    @pytest.mark.parametrize(
        "arguments",
        [
            "cifar --optimizer adamw --encoder convnext_tiny",
            "vicregl --alpha None",
            "digits --optimizer lars --trust-coefficient 0.1 --width 9",
            "imagenet --small-images",
        ],
    )
    def test_what_a_recipe_sets_may_have_no_effect(self, arguments):
        assert isinstance(parse(arguments.split()).command, Pretrain)

    def test_any_choice_can_be_changed(self):
        arguments = ["imagenet", "--batch", "64", "--views.size", "96", "--out", "a"]
        arguments += ["--mesh", "data=4,more=2", "--learning-rate", "0.1"]
        job = parse(arguments).command
        assert (job.config.batch, job.config.views.size) == (64, 96)
        assert job.config.learning_rate == 0.1 and job.config.encoder == "resnet50"
        assert (str(job.launch.out), job.launch.mesh) == ("a", "data=4,more=2")
