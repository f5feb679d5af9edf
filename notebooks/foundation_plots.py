"""The figures of notebooks A1 to A8, in the style and colours of `llm.figures.style`.

Each function takes numbers that a notebook has computed and returns a figure.
"""

from collections.abc import Sequence

from matplotlib.figure import Figure

from llm.figures.style import ORANGE, SKY, new_figure

# Tokens ------------------------------------------------------------------------------------------


def merges_figure(cut: dict[str, list[list[bytes]]]) -> Figure:
    """A panel a word, a line a merge; neighbouring tokens in two colours."""
    figure, panels = new_figure(1, len(cut), width=10, height=2.9)
    deepest = max(map(len, cut.values()))
    for panel, (word, steps) in zip(panels, cut.items()):
        for row, parts in enumerate(steps):
            _draw_pieces(panel, row, parts, 11)
        tokens = "1 token" if len(steps[-1]) == 1 else f"{len(steps[-1])} tokens"
        panel.set(title=f"{word!r}: {len(steps[0])} bytes, {tokens}")
        panel.set(ylim=(deepest - 0.4, -0.6), yticks=range(len(steps)), xticks=[])
        _without_frame(panel)
    panels[0].set_ylabel("merges made")
    return figure


def cuts_figure(pieces: dict[str, list[bytes]]) -> Figure:
    """The same text cut by different vocabularies, one under the other."""
    figure, axes = new_figure(width=11, height=3.1)
    for row, (name, parts) in enumerate(pieces.items()):
        _draw_pieces(axes, row, parts, 9, 0.56)
        axes.text(0, row - 0.36, f"{name}: {len(parts)} tokens", fontsize=9, va="bottom")
    axes.set(ylim=(len(pieces) - 0.5, -0.8), xticks=[], yticks=[])
    _without_frame(axes)
    return figure


def _draw_pieces(axes, row: float, parts: Sequence[bytes], size: float, height=0.72) -> None:
    """Tokens as boxes in a line, as wide as they have bytes; a byte of a character in hex."""
    at = 0
    for number, part in enumerate(parts):
        colour = (SKY, ORANGE)[number % 2]
        axes.barh(row, len(part), height, at, align="center", color=colour, edgecolor="white")
        try:
            text = part.decode().replace(" ", "␣")
        except UnicodeDecodeError:
            text = part.hex().upper()
        small = size - 3 if len(text) > len(part) else size
        axes.text(at + len(part) / 2, row, text, ha="center", va="center", fontsize=small)
        at += len(part)
    axes.set_xlim(0, max(axes.get_xlim()[1], at))


def _without_frame(axes) -> None:
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
