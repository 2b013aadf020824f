"""Each command on the pages has flags and values that its program takes."""

import os
import re
import shlex

import pytest
import tyro
from pages import PAGES, ROOT, commands, inline
from photographs import write_photographs

from benchmarks.options import Options as Benchmarks
from mutation.__main__ import Options as Mutation
from parity.options import Options as Parity
from vicreg_jax.pretrain.__main__ import parse
from vicreg_jax.pretrain.commands import names

PROGRAMS = {
    "vicreg-pretrain": parse,
    "slurm.sbatch": lambda words: parse([*words, "--distributed"]),
    "python -m benchmarks": lambda words: tyro.cli(Benchmarks, args=words),
    "python -m mutation": lambda words: tyro.cli(Mutation, args=words),
    "python -m parity": lambda words: tyro.cli(Parity, args=words),
}
# What the pages leave open, and a value for it.
OPEN = {"FAULT": "world-size", "RECIPE": "digits", "S": "0"}
JOB = "health", "job", "pods", "reproduce", "vicregl"
SLURM = {"--requeue", "--signal"}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The machine that the pages speak of: many cores, and a folder of photographs."""
    write_photographs(tmp_path / "photographs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 128)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("command", sorted(set(commands())), ids=shlex.join)
def test_is_understood(command):
    program, *words = command
    words = [OPEN.get(word, word) for word in words if word != "..."]
    if words[-1:] == ["--data"]:
        words.append("imagenet/train")
    try:
        PROGRAMS[program](words)
    except SystemExit as ended:  # of --help
        assert not ended.code


def test_flags_exist(capsys, monkeypatch):
    """Those of the job that pages name by themselves."""
    monkeypatch.setenv("COLUMNS", "200")
    for command in ("imagenet", "mnist", "linear", "finetune", "embed", "probe"):
        with pytest.raises(SystemExit):
            parse([command, "--help"])
    known = set(re.findall(r"--[\w.-]+", capsys.readouterr().out))
    pages = [ROOT / f"docs/{name}.md" for name in JOB]
    first = {code.split()[0] for page in pages for code in inline(page)}
    flags = {word for word in first if re.fullmatch(r"--[\w.-]+", word)}
    assert len(flags) > 30
    assert flags - known <= SLURM


def test_files_exist():
    """Those that pages name by their path in the repository."""
    path = re.compile(r"\b(?:benchmarks|docs|examples|parity|tests)/[\w/]+\.\w+")
    text = " ".join(code for page in PAGES for code in inline(page))
    paths = set(path.findall(text))
    assert len(paths) > 10
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_all_recipes_and_commands_are_in_the_synopsis():
    page = (ROOT / "docs/job.md").read_text()
    recipes = re.search(r"vicreg-pretrain \[([\w|]+)\]", page)[1].split("|")
    shown = re.findall(r"^vicreg-pretrain (\w+)", page, re.MULTILINE)
    assert {*recipes, *shown} == set(names())
