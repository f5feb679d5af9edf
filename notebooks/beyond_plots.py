"""The figures of notebook 09, beyond LoRA, in the style of `llm.figures`."""

from collections.abc import Sequence

import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch
from matplotlib.figure import Figure

from llm.figures.beyond import draw_errors, draw_levels, draw_rows
from llm.figures.style import BLUE, GREEN, GREY, RED, new_figure


def levels_figure(scaled: torch.Tensor, levels: Sequence[float]) -> Figure:
    """Weights, each divided by the largest of its block, and the levels they are rounded to."""
    figure, axes = new_figure(width=7.5, height=3.6)
    draw_levels(axes, scaled, levels)
    return figure


def errors_figure(by_block: dict[int, float], int8: tuple[float, float]) -> Figure:
    """Error against bits a weight: block size -> error; int8: (bits, error)."""
    figure, axes = new_figure(width=7.5, height=3.6)
    draw_errors(axes, by_block, int8)
    return figure


def rows_figure(changes: dict[str, dict[str, tuple[float, float]]]) -> Figure:
    """What training did to the rows of W: way -> layer -> (change of length, 1 - cosine)."""
    figure, axes = new_figure(width=7.5, height=4)
    draw_rows(axes, changes)
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
