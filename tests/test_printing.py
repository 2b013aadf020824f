"""What is printed: paths with all their characters, and lines of any width."""

import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console
from runs import tiny

from vicreg_jax import __main__ as bug_report
from vicreg_jax import aot
from vicreg_jax.pretrain import classifier_run, compile_only, evaluation, export, loop
from vicreg_jax.pretrain.__main__ import parse
from vicreg_jax.pretrain.commands import Probe, Report
from vicreg_jax.pretrain.config import Launch
from vicreg_jax.pretrain.printing import print_line

LONG = "a" * 60 + "[2024]"


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=40)


def test_brackets_and_long_lines(console):
    print_line(console, f"in {LONG} and {LONG}\nbelow")
    assert console.file.getvalue() == f"in {LONG} and {LONG}\nbelow\n"


def test_the_time_left_has_no_share_of_the_compilation(monkeypatch):
    shown = Console(file=io.StringIO())
    now = 0.0  # compiling takes 100 seconds
    monkeypatch.setattr(loop.time, "monotonic", lambda: now)
    with loop._lines(shown, 5, 25) as show:
        now = 100.0
        show(5, None)
        now = 110.0
        show(10, {"step": 8, "epoch": 0, "loss": 1.0})
    assert shown.file.getvalue() == "step 9 of 25, epoch 1, loss 1.00, 0:30 left\n"


def test_the_picture(tmp_path, capsys):
    run = tmp_path / LONG
    run.mkdir()
    (run / "config.json").write_text("{}")
    line = {"step": 0, "loss": 1.0, "accuracy": 0.5}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    Report(run).run()
    assert capsys.readouterr().out == f"Drew {run / 'report.png'}\n"


def test_probes(tmp_path, capsys, monkeypatch):
    summary = f"of {LONG} and {LONG}.\nWritten to {LONG}"
    probed = export.Probed({}, summary, tmp_path)
    monkeypatch.setattr(export, "probe", lambda *_, **__: probed)
    Probe(tmp_path).run()
    assert capsys.readouterr().out == f"{summary}\n"


def test_a_quick_check(console, monkeypatch):
    """Its warning too, whose first word alone has a color."""

    class Programs:
        config = tiny()
        steps_per_epoch = 2

        @staticmethod
        def embed(*_):
            return np.zeros((2, 8, 16))

    class Log:
        @staticmethod
        def quick_check(line):
            pass

    class Batch:
        images = aspect = None

    monkeypatch.setattr(evaluation, "quick_check", lambda *_, **__: {})
    monkeypatch.setattr(evaluation, "summary", lambda *_: LONG)
    monkeypatch.setattr(evaluation, "warning", lambda _: f"of [{LONG}]")
    made = loop.Loop(Programs, Launch(), None, None, console, 0.0, range(0))
    made._quick_check(None, Batch, 4, Log)
    assert console.file.getvalue() == f"Epoch 2: {LONG}\nWarning: of [{LONG}]\n"


@pytest.mark.parametrize("words", ["digits", "linear a", "finetune a --labels 1%"])
def test_compile_only_says_what_it_does(words, capsys, monkeypatch):
    printed = []

    def compiled(_):
        printed.append(capsys.readouterr().out)
        return aot.Report(0, 0, 0.0, {}, {}, "")

    # Stands in for the compiler, which needs a package.
    monkeypatch.setattr(aot, "mesh", lambda *_: None)
    monkeypatch.setattr(aot, "report_of", compiled)
    monkeypatch.setattr(compile_only, "_programs", lambda *_: None)
    monkeypatch.setattr(compile_only, "lowered", lambda _: None)
    monkeypatch.setattr(classifier_run, "settings", lambda *_, **__: (tiny(), None))
    topology = ("--compile-only", "v5litepod-64")
    parse([*words.split(), *topology]).command.run()
    assert printed == ["Compiling a training step for v5litepod-64\n"]
    assert "v5litepod-64" in capsys.readouterr().out  # the table


@pytest.mark.parametrize("count, noun", [(1, "device"), (2, "devices")])
def test_devices_of_a_bug_report(count, noun, capsys, monkeypatch):
    few = jax.devices()[:count]
    monkeypatch.setattr(jax, "devices", lambda: few)
    bug_report.main()
    lines = capsys.readouterr().out.splitlines()
    assert f"{count} {noun}: cpu (cpu)" in lines and "1 process" in lines
