"""Draws the layout of the package from the imports in its source.

python docs/images/layout.py    # writes layout.png
"""

import ast
from itertools import accumulate
from pathlib import Path

import matplotlib.pyplot as plt

PACKAGE = Path(__file__).parents[2] / "vicreg_jax"
# Imported by nearly every module, so their arrows would hide the others.
LEFT_OUT = {"", "__main__", "_check", "_check_maps", "_types"}


def parts():
    """Returns the imports of each part of the package, a module or a subpackage."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        found.setdefault(part, set()).update(_imported(path))
    return {
        part: {name for name in names if name in found and name != part} - LEFT_OUT
        for part, names in found.items()
        if part not in LEFT_OUT | {"__init__"}
    }


def _imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        package, _, rest = node.module.partition(".")
        if package == "vicreg_jax":
            names = [rest] if rest else [alias.name for alias in node.names]
            yield from (_home(name.split(".")[0]) for name in names)


def _home(name):
    """Returns the module that defines a name which the package re-exports."""
    if (
        name[:1] == "_"
        or (PACKAGE / name).is_dir()
        or (PACKAGE / f"{name}.py").exists()
    ):
        return name
    for path in PACKAGE.glob("_*.py"):
        if path.stem != "__init__" and f"\ndef {name}(" in path.read_text():
            return path.stem
    return "_loss"


def reduced(imports):
    """Returns the imports without those that follow from others."""

    def below(part):
        return imports[part].union(*(below(other) for other in imports[part]))

    return {
        part: {n for n in names if not any(n in below(m) for m in names)}
        for part, names in imports.items()
    }


def level(part, imports):
    """Returns the length of the longest chain of imports below a part."""
    return 1 + max((level(below, imports) for below in imports[part]), default=-1)


def _middle(part, imports, spots):
    """Returns where a part is best placed: above what it imports, private ones left."""
    below = [spots[other][0] for other in imports[part]]
    return (sum(below) / len(below) if below else not part.startswith("_")), part


def _spread(row):
    """Yields where the labels of a row stand: each takes room by its length."""
    ends = list(accumulate(len(part) + 3 for part in row))
    for part, end in zip(row, ends, strict=True):
        yield (end - (len(part) + 3) / 2) / ends[-1]


def figure():
    """Returns the picture: an arrow goes from a part to each part it imports."""
    imports = reduced(parts())
    rows = {}
    for part in imports:
        rows.setdefault(level(part, imports), []).append(part)
    canvas, axes = plt.subplots(figsize=(9, 1.3 * len(rows)))
    spots = {}
    for height in sorted(rows):
        row = sorted(rows[height], key=lambda part: _middle(part, imports, spots))
        for part, x in zip(row, _spread(row), strict=True):
            spots[part] = x + 0.05 * (height % 3 - 1), height
    for part, below in imports.items():
        for other in below:
            axes.annotate(
                "",
                spots[other],
                spots[part],
                arrowprops=dict(
                    arrowstyle="->", color="#8899aa", shrinkA=14, shrinkB=14, lw=1.2
                ),
            )
    for part, spot in spots.items():
        color = "#dbe9f6" if part.startswith("_") else "#fde8c8"
        axes.text(
            *spot,
            part,
            ha="center",
            va="center",
            fontsize=11,
            family="monospace",
            bbox=dict(boxstyle="round,pad=0.4", facecolor=color, edgecolor="#667788"),
        )
    axes.set(xlim=(-0.05, 1.1), ylim=(-0.5, len(rows) - 0.5))
    axes.set_axis_off()
    canvas.tight_layout()
    return canvas


def main():
    """Writes the picture beside this file."""
    figure().savefig(Path(__file__).with_name("layout.png"), dpi=130)


if __name__ == "__main__":
    main()
