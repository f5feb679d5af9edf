"""The figures of notebooks A1 to A8, in the style and colours of `llm.figures.style`.

Each function takes numbers that a notebook has computed and returns a figure.
"""

from collections.abc import Sequence

import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch
from matplotlib.figure import Figure

from llm.figures.style import BLUE, ORANGE, SKY, new_figure

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


def batch_figure(rows: list[list[str]]) -> Figure:
    """Messages as a rectangle of tokens, padded on the right; rows: the tokens of each."""
    longest = max(map(len, rows))
    figure, axes = new_figure(width=12, height=0.55 * len(rows) + 0.8)
    for place, row in enumerate(rows):
        axes.barh(place, longest, 0.8, color="#DDDDDD")
        for at, token in enumerate(row):
            axes.barh(place, 1, 0.8, at, color=(SKY, ORANGE)[at % 2], edgecolor="white")
            axes.text(at + 0.5, place, shown(token), ha="center", va="center", fontsize=7.5)
        if longest - len(row) > 2:
            middle = (longest + len(row)) / 2
            axes.text(middle, place, "padding", ha="center", va="center", fontsize=9)
    axes.set(xlabel="position (tokens)", ylabel="message", yticks=range(len(rows)))
    axes.set_xticks(range(0, longest + 1, 5))
    axes.set(xlim=(0, longest), ylim=(len(rows) - 0.5, -0.5))
    axes.grid(visible=False)
    return figure


def computed_figure(computed: dict[str, int]) -> Figure:
    """Tokens that an epoch computes for each way of batching; the last has no padding."""
    figure, axes = new_figure(width=9, height=2.6)
    real = list(computed.values())[-1] / 1e3
    counts = [count / 1e3 for count in computed.values()]
    axes.barh(range(len(counts)), counts, 0.62, color="#DDDDDD", label="padding")
    axes.barh(range(len(counts)), [real] * len(counts), 0.62, color=BLUE, label="real tokens")
    for place, count in enumerate(counts):
        axes.text(count + 0.01 * max(counts), place, f"{count:,.0f}", va="center")
    axes.set_yticks(range(len(counts)), list(computed))
    axes.invert_yaxis()
    axes.set(xlabel="tokens computed in an epoch (thousands)", xlim=(0, 1.1 * max(counts)))
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right")
    return figure


def shown(token: str) -> str:
    """A token without its quotation marks: `' you'` as `␣you`, and `b'\\xc2'` as `C2`."""
    if token.startswith("b"):
        return token[2:-1].replace("\\x", "").upper()
    return token[1:-1].replace(" ", "␣")


# Embeddings --------------------------------------------------------------------------------------


def embedding_figure(parts: dict[str, torch.Tensor], tokens: Sequence[str]) -> Figure:
    """Vectors as rows of colours, a panel a part; parts: title -> (tokens, emb_dim)."""
    figure, panels = new_figure(1, len(parts), width=12, height=4.4)
    most = max(float(part[:, :64].abs().quantile(0.99)) for part in parts.values())
    for panel, (title, part) in zip(panels, parts.items()):
        image = panel.imshow(part[:, :64], cmap="PuOr", vmin=-most, vmax=most, aspect="auto")
        panel.set_yticks(range(len(tokens)), [shown(token) for token in tokens], fontsize=8)
        panel.set(title=title, xlabel="entry of the vector (first 64)")
        panel.grid(visible=False)
    figure.colorbar(image, ax=panels, shrink=0.8, label="value")
    return figure


def cosines_figure(tables: dict[str, torch.Tensor], tokens: Sequence[str]) -> Figure:
    """How alike the tokens are, a panel a model; tables: title -> (tokens, tokens) cosines."""
    figure, panels = new_figure(1, len(tables), width=11, height=5)
    for panel, (title, table) in zip(panels, tables.items()):
        image = panel.imshow(table, cmap="PuOr", vmin=-0.6, vmax=0.6)
        names = [shown(token) for token in tokens]
        panel.set_xticks(range(len(tokens)), names, rotation=90, fontsize=8)
        panel.set_yticks(range(len(tokens)), names, fontsize=8)
        panel.set(title=title)
        panel.grid(visible=False)
    figure.colorbar(image, ax=panels, shrink=0.7, label="cosine (1 on the diagonal)", extend="max")
    return figure


# Drawing tokens ----------------------------------------------------------------------------------


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
