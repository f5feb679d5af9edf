"""The figures of what came after LoRA, each drawn into given axes: chapter 10 and notebook 9."""

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes

from llm.figures.style import BLUE, GREEN, PINK, RED, SKY

MARKS = {"LoRA": (GREEN, "s"), "QLoRA": (BLUE, "d"), "DoRA": (RED, "o"), "PiSSA": (PINK, "^")}


def draw_levels(axes: Axes, scaled: torch.Tensor, levels: Sequence[float]) -> None:
    """Weights, each divided by the largest of its block, and the levels they are rounded to."""
    axes.hist(scaled.numpy(), bins=140, density=True, color=SKY)
    top = axes.get_ylim()[1]
    axes.vlines(levels, 0, 1.02 * top, color="black", linewidth=1)
    axes.set(xlabel="weight / largest of its block of 64", ylabel="density", ylim=(0, 1.08 * top))
    axes.set_title("The weights of mini, and the sixteen levels")
    axes.grid(axis="x", visible=False)


def draw_errors(axes: Axes, by_block: dict[int, float], int8: tuple[float, float]) -> None:
    """Error against bits a weight: block size -> error; int8: (bits, error)."""
    bits = [4 + 32 / block for block in by_block]
    axes.plot(bits, [100 * x for x in by_block.values()], "o-", color=BLUE, label="NF4, by block")
    for number, (x, (block, error)) in enumerate(zip(bits, by_block.items())):
        # Above and below in turn: the largest blocks lie close together.
        place, side = ((6, 4), "left") if number % 2 == 0 else ((-6, -11), "right")
        style = {"textcoords": "offset points", "fontsize": 9, "ha": side}
        axes.annotate(str(block), (x, 100 * error), place, **style)
    axes.plot(int8[0], 100 * int8[1], "s", color=RED, label="int8, a scale a row")
    axes.set(xlabel="bits a weight, scales included", ylabel="error (% of the length of W)")
    axes.set(xlim=(3.4, None), ylim=(0, 1.15 * 100 * max(by_block.values())))
    axes.legend()


def draw_rows(axes: Axes, changes: dict[str, dict[str, tuple[float, float]]]) -> None:
    """What training did to the rows of W: way -> layer -> (change of length, 1 - cosine).

    A way is a key of MARKS, alone or with more after a comma.
    """
    for name, layers in changes.items():
        colour, mark = MARKS[name.partition(",")[0]]
        x, y = zip(*layers.values())
        style = {"color": colour, "markerfacecolor": "none", "markersize": 5}
        axes.plot([100 * value for value in x], y, mark, label=name, **style)
    axes.set(xscale="log", yscale="log", xlabel="mean change of a row's length (%)")
    axes.set(ylabel="change of direction, 1 - cosine")
    axes.set_title("A point for each layer")
    axes.legend()
