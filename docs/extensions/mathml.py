"""Mathematics as MathML, made when the site is built.

Sphinx's own renderers need a LaTeX installation or load a script from another site.
Browsers draw MathML themselves, so the pages also work without a network.
"""

import shutil
from pathlib import Path

import ziamath
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml


def visit_inline(translator, node):
    """Writes an inline formula."""
    translator.body.append(str(tex2mathml(node.astext())))
    raise nodes.SkipNode


def visit_block(translator, node):
    """Writes a displayed formula in a box that scrolls on narrow screens."""
    formula = str(tex2mathml(_environment(node.astext()), as_block=True))
    translator.body.append(f'<div class="math">{formula}</div>\n')
    raise nodes.SkipNode


def _environment(text):
    """Returns the text in `align*` if it has lines, as Sphinx's directive allows."""
    several = "\\\\" in text and "\\begin" not in text
    return rf"\begin{{align*}}{text}\end{{align*}}" if several else text


def _copy_font(app, error):
    """Copies STIX Two Math (Open Font License), which Ziamath brings, to the site."""
    fonts = Path(ziamath.__file__).parent / "fonts"
    if error is None and app.builder.format == "html":
        target = Path(app.outdir) / "_static" / "math.ttf"
        shutil.copyfile(fonts / "STIXTwoMath-Regular.ttf", target)


def setup(app):
    """Registers the renderer."""
    app.connect("build-finished", _copy_font)
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
