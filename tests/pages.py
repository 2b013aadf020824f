"""The code blocks of the documentation, and the commands that it shows."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(ROOT / f"{name}/README.md" for name in ("parity", "benchmarks", "examples")),
    *sorted(ROOT.glob("docs/**/*.md")),
]
# A program, and what follows until the shell's command ends.
_COMMAND = re.compile(
    r"(vicreg-pretrain|slurm\.sbatch(?= )|python -m (?:parity|benchmarks|mutation))"
    r"(?: ([^;&|>#\n]*)|$)",
    re.MULTILINE,
)


def blocks(page, language):
    """Returns the fenced blocks of a language on a page; code cells are none."""
    fence = rf"^```{language}\n(.*?)^```$"
    return re.findall(fence, page.read_text(), re.MULTILINE | re.DOTALL)


def inline(page):
    """Returns the code in single backticks on a page, each on one line."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def commands():
    """Yields the program and the arguments of each command, but no synopsis."""
    for page in PAGES:
        for text in (_shell(page), *inline(page)):
            for program, rest in _COMMAND.findall(text):
                if not rest.startswith("["):
                    yield program, *_words(rest)


def _shell(page):
    """Returns the shell code of a page, with the variables that it exports."""
    text = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    for name, value in re.findall(r"export (\w+)='(.*)'", text):
        text = text.replace(f"${name}", value)
    return text


def _words(rest):
    """Splits arguments. An odd quote is the end of that around the command."""
    for quote in "'\"":
        if rest.count(quote) % 2:
            rest = rest.rpartition(quote)[0]
    return shlex.split(rest)
