"""What several files say about the package is the same."""

import re
import tomllib
from pathlib import Path

import vicreg_jax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_oldest_versions_that_are_tested_are_the_lower_bounds():
    text = (ROOT / "tests/constraints-oldest.txt").read_text()
    tested = dict(re.findall(r"^([\w-]+)==(\S+)$", text, re.M))
    extras = PROJECT["optional-dependencies"]
    named = [*PROJECT["dependencies"], *extras["pretrain"], *extras["parity"]]
    lines = set(re.findall(r"^([\w-]+)>=([\d.]+)$", "\n".join(named), re.M))
    assert lines == set(tested.items())


def test_one_version_everywhere():
    citation = (ROOT / "CITATION.cff").read_text()
    page = (ROOT / "docs/cite.md").read_text()
    assert f"\nversion: {PROJECT['version']}\n" in citation
    assert f"version = {{{PROJECT['version']}}}" in page
    assert vicreg_jax.__version__ == PROJECT["version"]
