"""nbgrader's feedback as a page that needs no network: formulae are drawn into it.

nbgrader's own page fetches MathJax, a program that sets formulae, from a server. Here Matplotlib
sets them, as it does in figures.
"""

import base64
import html
import io
import re

from matplotlib import rc_context
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image
from nbconvert.exporters import HTMLExporter

FORMULA = re.compile(r"(`[^`]*`)|\$\$(.+?)\$\$|\$(.+?)\$", re.DOTALL)
MATHJAX = re.compile(r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->", re.DOTALL)
# What Matplotlib calls otherwise, or cannot set: a brace below with its word is left out.
OTHERWISE = (
    (re.compile(r"\\tfrac"), r"\\frac"),
    (re.compile(r"\\[lr]Vert"), r"\\Vert"),
    (re.compile(r"\\qquad"), r"\\quad\\quad"),
    (re.compile(r"\^\\top"), r"^{\\top}"),
    (re.compile(r"\\;"), r"\\ "),
    (re.compile(r"\\underbrace\{((?:[^{}]|\{[^{}]*\})*)\}_\{\\text\{\w+\}\}"), r"\1"),
    (re.compile(r"\\ge(?![a-z])"), r"\\geq"),
    (re.compile(r"\s+"), " "),
)
POINTS = 12  # the size of the letters


class FeedbackPage(HTMLExporter):
    """A notebook as HTML, its formulae as pictures in the page."""

    def from_notebook_node(self, nb, resources=None, **others):
        """As HTMLExporter does it; the notebook's text cells get their formulae drawn."""
        for cell in nb.cells:
            if cell.cell_type == "markdown":
                cell.source = with_pictures(cell.source)
        page, resources = super().from_notebook_node(nb, resources, **others)
        return MATHJAX.sub("", page), resources


def with_pictures(markdown: str) -> str:
    """Text with pictures in the place of $formulae$; code in backticks is left alone."""

    def drawn(found: re.Match) -> str:
        code, display, inline = found.groups()
        if code:
            return code
        if display:
            return f'<span style="display:block; text-align:center">{picture(display)}</span>'
        return picture(inline)

    return FORMULA.sub(drawn, markdown)


def picture(formula: str) -> str:
    """An <img> of a formula, on the line of the text around it; its source, where it cannot be."""
    tex = formula.strip()
    for pattern, other in OTHERWISE:
        tex = pattern.sub(other, tex)
    drawn = io.BytesIO()
    try:
        with rc_context({"mathtext.fontset": "cm", "svg.hashsalt": "llm"}):
            size = FontProperties(size=POINTS)
            depth = math_to_image(f"${tex}$", drawn, prop=size, dpi=72, format="svg")
    except ValueError:
        return f"<code>{html.escape(formula)}</code>"
    data = base64.b64encode(drawn.getvalue()).decode()
    return (
        f'<img alt="{html.escape(formula)}" src="data:image/svg+xml;base64,{data}" '
        f'style="display:inline; margin:0; vertical-align:{-depth:.1f}pt">'
    )
