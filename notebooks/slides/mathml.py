"""Formulae as MathML, which browsers draw by themselves: nothing has to be fetched."""

from docutils import nodes
from latex2mathml.converter import convert


def inline(self, node):
    """A formula in a sentence."""
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def display(self, node):
    """A formula in a line of its own."""
    self.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app):
    """Register with Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    return {"parallel_read_safe": True}
