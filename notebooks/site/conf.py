"""Sphinx's settings for the site; `notebooks/make_site.py` builds it."""

import os
import re
import sys

ROOT = os.environ["SITE_ROOT"]  # the repository; what is built is a copy of a part of it
sys.path[:0] = [ROOT, os.path.dirname(__file__)]

project = "GPT-2 and LoRA from scratch"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml"]
html_theme = "furo"
html_title = project
html_math_renderer = "mathml"  # formulae need no network
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
highlight_language = "text"  # of drawings in docstrings; code says what it is
templates_path: list[str] = []

nb_execution_mode = "off"  # notebooks are committed executed, and the tests hold their outputs
nb_render_markdown_format = "myst"
nb_ipywidgets_js: dict = {}  # widgets do nothing in a static page, and would load from a network
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "description"
napoleon_google_docstring = True
suppress_warnings = ["ref.python"]  # a name that several modules have is linked nowhere
exclude_patterns: list[str] = []


def as_restructured_text(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings here are written for a reader of the source; say the same to Sphinx.

    Names in single backticks are code, and what is drawn (tables, and lines indented for no other
    reason than to show them) stays as it is.
    """
    found: list[str] = []
    drawing = False
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        before = lines[number - 1].strip() if number else ""
        if not drawing and line.strip():
            drawn = not before and indent >= 4 + _margin(lines, number)
            table = not before and not drawn and line.lstrip().startswith("| ")
            if table or drawn:
                margin = indent if table else _margin(lines, number)
                found += ["", " " * margin + "::", ""]
                drawing = True
        elif drawing and line.strip() and not before and indent < 4 + margin:
            drawing = line.lstrip().startswith("|")
        if drawing:
            found.append("    " + line if line.strip() else "")
        else:
            line = re.sub(r"(?<![`:])`([^`]+)`(?!`)", r"``\1``", line)
            found.append(line.replace("<|endoftext|>", r"<\|endoftext\|>"))
    lines[:] = found


def _margin(lines: list[str], number: int) -> int:
    """How far the last paragraph before a line is indented."""
    for line in reversed(lines[:number]):
        if line.strip():
            return len(line) - len(line.lstrip())
    return 0


def setup(app) -> None:
    """Tell Sphinx of it, before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", as_restructured_text, priority=100)
