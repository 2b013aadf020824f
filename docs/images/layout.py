"""Draws the layout of the package from the imports in its source.

python docs/images/layout.py    # writes layout.png
"""

import ast
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt

PACKAGE = Path(__file__).parents[2] / "vicreg_jax"
# Imported by nearly every module, so their arrows would hide the others.
LEFT_OUT = {"", "__main__", "_check", "_check_maps", "_types"}
SWEEPS = 8
LINE = {"color": "#8899aa", "linewidth": 1.2}


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


def _chains(imports, levels):
    """Yields each arrow as the nodes that it passes, from a part to an import.

    Between them it passes one point in each row, which the arrows to the same part
    share. The points take room in their rows, so no line crosses a box.
    """
    for part, below in imports.items():
        for other in below:
            between = range(levels[part] - 1, levels[other], -1)
            yield [part, *((other, height) for height in between), other]


def _spread(row):
    """Yields where the nodes of a row stand: each takes room by its label's length."""
    ends = list(accumulate(_room(node) for node in row))
    for node, end in zip(row, ends, strict=True):
        yield (end - _room(node) / 2) / ends[-1]


def _room(node):
    return len(node) + 3 if isinstance(node, str) else 3


def _placed(chains, levels):
    """Returns where each node stands: near those that its arrows join it with."""
    neighbors, rows = {}, {}
    for chain in chains:
        for above, below in pairwise(chain):
            neighbors.setdefault(above, set()).add(below)
            neighbors.setdefault(below, set()).add(above)
    for node in sorted(neighbors, key=str):
        height = levels[node] if isinstance(node, str) else node[1]
        rows.setdefault(height, []).append(node)
    across = {}
    # Up and down in turns, until the order has settled.
    for height in [*sorted(rows), *sorted(rows, reverse=True)] * SWEEPS:
        row = sorted(rows[height], key=lambda node: _middle(neighbors[node], across))
        across |= dict(zip(row, _spread(row), strict=True))
    return {node: (across[node], height) for height in rows for node in rows[height]}


def _middle(neighbors, across):
    return fmean([across.get(node, 0.5) for node in neighbors])


def _box(axes, spot, part):
    color = "#dbe9f6" if part.startswith("_") else "#fde8c8"
    box = dict(boxstyle="round,pad=0.4", facecolor=color, edgecolor="#667788")
    font = dict(fontsize=11, family="monospace", ha="center", va="center")
    return axes.text(*spot, part, bbox=box, zorder=2, **font).get_bbox_patch()


def figure():
    """Returns the picture: an arrow goes from a part to each part it imports."""
    imports = reduced(parts())
    levels = {part: level(part, imports) for part in imports}
    chains = list(_chains(imports, levels))
    spots = _placed(chains, levels)
    canvas, axes = plt.subplots(figsize=(9, 1.1 * (1 + max(levels.values()))))
    boxes = {part: _box(axes, spots[part], part) for part in imports}
    for chain in chains:
        axes.plot(*zip(*(spots[n] for n in chain[:-1]), strict=True), **LINE, zorder=1)
        # The arrow ends at the edge of its box, and is drawn above it.
        ends = dict(shrinkA=0, shrinkB=1, patchB=boxes[chain[-1]])
        if chain[-2] in boxes:
            ends["patchA"] = boxes[chain[-2]]
        arrow = dict(arrowstyle="->", **LINE, **ends)
        axes.annotate("", spots[chain[-1]], spots[chain[-2]], arrowprops=arrow)
    axes.set(xlim=(-0.05, 1.05), ylim=(-0.4, max(levels.values()) + 0.4))
    axes.set_axis_off()
    canvas.tight_layout()
    return canvas


def main():
    """Writes the picture beside this file."""
    figure().savefig(Path(__file__).with_name("layout.png"), dpi=130)


if __name__ == "__main__":
    main()
