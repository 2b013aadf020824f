"""Pages whose text is a file elsewhere in the repository, with its links made right.

MyST's `include` directive cannot link from one included file to another.
"""

import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {
    "parity": "parity/README.md",
    "benchmarks": "benchmarks/README.md",
    "benchmark_results": "benchmarks/results/results.md",
    "benchmark_gpu": "benchmarks/results/h200.md",
    "changelog": "CHANGELOG.md",
}
_LINK = re.compile(r"\]\((?!https?:|#)([^)]+)\)")
_PICTURE = re.compile(r"^(!\[.*\]\(.*\))$", re.MULTILINE)


def _append(app, docname, source):
    """Adds the file's text to what the page itself has."""
    if docname in PAGES:
        path = ROOT / PAGES[docname]
        app.env.note_dependency(str(path))
        text = _LINK.sub(lambda link: f"]({_target(path, link[1])})", path.read_text())
        # Plots have small labels, and the column of the text is narrow.
        source[0] += _PICTURE.sub(r"\1{.full-width}", text)


def _target(path, link):
    """Returns a link of a file as seen from the pages."""
    wanted = os.path.relpath(path.parent / link, ROOT)
    for page, file in PAGES.items():
        if wanted == file:
            return f"{page}.md"
    return os.path.relpath(ROOT / wanted, ROOT / "docs")


def setup(app):
    """Registers the pages."""
    app.connect("source-read", _append)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
