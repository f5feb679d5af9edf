"""The figures of notebook 09, beyond LoRA, in the style of `llm.figures`."""

from collections.abc import Sequence

import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch
from matplotlib.figure import Figure

from llm.figures.style import BLUE, GREEN, GREY, PINK, RED, SKY, new_figure


def levels_figure(scaled: torch.Tensor, levels: Sequence[float]) -> Figure:
    """Weights, each divided by the largest of its block, and the levels they are rounded to."""
    figure, axes = new_figure(width=7.5, height=3.6)
    axes.hist(scaled.numpy(), bins=140, density=True, color=SKY)
    top = axes.get_ylim()[1]
    axes.vlines(levels, 0, 1.02 * top, color="black", linewidth=1)
    axes.set(xlabel="weight / largest of its block of 64", ylabel="density", ylim=(0, 1.08 * top))
    axes.set_title("The weights of mini, and the sixteen levels")
    axes.grid(axis="x", visible=False)
    return figure


def errors_figure(by_block: dict[int, float], int8: tuple[float, float]) -> Figure:
    """Error against bits a weight: block size -> error; int8: (bits, error)."""
    figure, axes = new_figure(width=7.5, height=3.6)
    bits = [4 + 32 / block for block in by_block]
    axes.plot(bits, [100 * x for x in by_block.values()], "o-", color=BLUE, label="NF4, by block")
    for (block, error), x in zip(by_block.items(), bits):
        place = (6, 6) if x > 4.1 else (2, 8)
        axes.annotate(str(block), (x, 100 * error), place, textcoords="offset points", fontsize=9)
    axes.plot(int8[0], 100 * int8[1], "s", color=RED, label="int8, a scale a row")
    axes.set(xlabel="bits a weight, scales included", ylabel="error (% of the length of W)")
    axes.set_ylim(0, 1.15 * 100 * max(by_block.values()))
    axes.legend()
    return figure


def rows_figure(changes: dict[str, dict[str, tuple[float, float]]]) -> Figure:
    """What training did to the rows of W: way -> layer -> (change of length, 1 - cosine)."""
    figure, axes = new_figure(width=7.5, height=4)
    marks = {"LoRA": (GREEN, "s"), "QLoRA": (BLUE, "d"), "DoRA": (RED, "o"), "PiSSA": (PINK, "^")}
    for name, layers in changes.items():
        colour, mark = marks[name]
        x, y = zip(*layers.values())
        style = {"color": colour, "markerfacecolor": "none", "markersize": 5}
        axes.plot([100 * value for value in x], y, mark, label=name, **style)
    axes.set(xscale="log", yscale="log", xlabel="mean change of a row's length (%)")
    axes.set(ylabel="change of direction, 1 - cosine")
    axes.set_title("A point for each layer")
    axes.legend()
    return figure


def energy_figure(shares: dict[str, Sequence[float]], rank: int) -> Figure:
    """Share of W's squared length in its strongest directions: layer -> share by rank from 1."""
    figure, axes = new_figure(width=7.5, height=3.6)
    for (name, share), colour in zip(shares.items(), (GREEN, BLUE, RED)):
        axes.plot(range(1, len(share) + 1), [100 * x for x in share], color=colour, label=name)
    axes.axvline(rank, color=GREY, linestyle=":", label=f"rank {rank}")
    axes.set(xscale="log", xlabel="directions, strongest first", ylim=(0, 105))
    axes.set_ylabel("share of the squared length of W (%)")
    axes.legend()
    return figure
