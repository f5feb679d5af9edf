"""The figures of notebook 08, voices, in the style of `llm.figures`."""

from collections.abc import Sequence

import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch
from matplotlib.figure import Figure

from llm.data.tsv import LABELS
from llm.figures.style import BLUE, DARK_GREY, GREY, RED, new_figure

MARKS = {"base": (DARK_GREY, "x"), "ham": (BLUE, "o"), "spam": (RED, "s")}


def loss_figure(losses: Sequence[float]) -> Figure:
    """The loss of each training step."""
    figure, axes = new_figure(width=7.5, height=2.8)
    axes.plot(range(1, len(losses) + 1), losses, "s-", color=RED, markersize=4)
    axes.set(xlabel="step", ylabel="loss of the batch\n(nats a token)")
    return figure


def bits_figure(texts: Sequence[str], labels: Sequence[int], bits: dict[str, list]) -> Figure:
    """Bits a byte of each message, a row each: reader ("base", "ham", "spam") -> bits."""
    figure, axes = new_figure(width=9, height=1 + 0.36 * len(texts))
    rows = range(len(texts))
    axes.hlines(rows, *_ends(bits), color=GREY, linewidth=1)
    for name, values in bits.items():
        colour, mark = MARKS[name]
        called = name if name == "base" else f"{name} voice"
        axes.plot(values, rows, mark, color=colour, label=called, markersize=6)
    names = [f"{text[:34]}…  {LABELS[label]}" for text, label in zip(texts, labels)]
    axes.set_yticks(rows, names, fontsize=9)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("bits a byte (less: the message was expected more)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def _ends(bits: dict[str, list]) -> tuple[list, list]:
    columns = list(zip(*bits.values()))
    return [min(column) for column in columns], [max(column) for column in columns]


def odds_figure(voices: torch.Tensor, head: torch.Tensor, labels: Sequence[int]) -> Figure:
    """Log-odds of spam by two voices (messages,) against those of a classifier with a head."""
    figure, axes = new_figure(width=7.5, height=4.4)
    axes.axhline(0, color=GREY, linewidth=1)
    axes.axvline(0, color=GREY, linewidth=1)
    for number, name in enumerate(LABELS):
        mine = torch.tensor(labels) == number
        colour, mark = MARKS[name]
        style = {"color": colour, "markerfacecolor": "none", "markersize": 5}
        axes.plot(voices[mine].tolist(), head[mine].tolist(), mark, label=name, **style)
    axes.set(
        xlabel="log-odds of spam by two voices (nats)",
        ylabel="log-odds of spam by the head (nats)",
        title="A hundred everyday messages: right of 0, and above 0, is “spam”",
    )
    axes.legend(title="in truth", loc="lower right")
    return figure
