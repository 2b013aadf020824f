"""Sphinx configuration; docs/README.md says how to build the site."""

import os
import sys
from importlib.metadata import version as installed
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))
# Notebooks inherit these: the same pages on every machine, and helpers to import.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE)])

project = "vicreg_jax"
author = "The vicreg_jax developers"
project_copyright = "the vicreg_jax developers"
version = release = installed("vicreg_jax")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "api_coverage",
    "mathml",
    "repository",
]
exclude_patterns = ["README.md", "_build", "extensions"]

html_theme = "sphinx_book_theme"
html_title = "vicreg_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("pictures.js", {"defer": "defer"})]
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}
html_show_sourcelink = False
html_theme_options = {
    "navbar_persistent": [],  # the search field is in the sidebar
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
myst_update_mathjax = False

# A page runs again only when its own code changes; without docs/_build all of them run.
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_render_image_options = {"align": "center"}

# Names in docstrings' backticks link where there is a page for them.
default_role = "py:obj"
suppress_warnings = ["ref.python"]  # a name in two modules links to one of them
add_module_names = False
python_maximum_signature_line_length = 70
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
