"""The figures of chapters 7 to 11, LoRA, in the style and colours of `llm.figures.style`.

Each function takes numbers that a chapter has computed and returns a figure.
"""

from collections.abc import Sequence

import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from llm.figures.beyond import draw_errors, draw_levels, draw_rows
from llm.figures.style import BLUE, GREEN, GREY, RED, new_figure


def lora_figure(
    of_weight: torch.Tensor, of_delta: torch.Tensor, stored: dict[int, float], whole: float
) -> Figure:
    """Chapter 7: singular values of W and of its update, and what an adapter takes on disk.

    of_weight, of_delta: singular values, falling. stored: rank -> MB of the adapter; whole: MB of
    all weights.
    """
    figure, (left, right) = new_figure(1, 2, width=10.5, height=4)
    places = range(1, len(of_weight) + 1)
    left.plot(places, of_weight, color=GREY, linewidth=2, label="W, frozen")
    rank = int((of_delta > 1e-6 * of_delta[0]).sum())
    left.plot(places[:rank], of_delta[:rank], "o-", color=GREEN, markersize=5, label="its update")
    left.set(xscale="log", yscale="log", xlabel="direction, strongest first")
    left.set(ylabel="singular value", title=f"The update acts in {rank} directions")
    for axis, subs in ((left.xaxis, (1, 3)), (left.yaxis, (1, 2, 5))):
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter("{x:g}")
    left.minorticks_off()
    left.legend()
    names = [*(f"LoRA\nrank {rank}" for rank in stored), "all\nweights"]
    sizes = [*stored.values(), whole]  # dots: on a logarithmic axis a bar's length says nothing
    right.scatter(names, sizes, 60, [GREEN] * len(stored) + [RED])
    for name, size in zip(names, sizes):
        shown = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center", "fontsize": 9}
        right.annotate(f"{size:,.1f}", (name, size), **shown)
    right.set(yscale="log", ylabel="what a task adds on disk (MB)", ylim=(0.4, 1500))
    right.yaxis.set_major_formatter("{x:,g}")
    right.minorticks_off()
    right.set_title("GPT-2 124M, float32")
    right.tick_params(axis="x", labelsize=8)
    right.grid(axis="x", visible=False)
    return figure


def storage_figure(sizes: tuple[int, int]) -> Figure:
    """Chapter 9: what many tasks take on disk; sizes: bytes of all weights and of an adapter."""
    whole, adapter = (size / 1e9 for size in sizes)
    figure, axes = new_figure(width=6.5, height=4)
    tasks = range(1, 101)
    axes.plot(tasks, [n * whole for n in tasks], color=RED, linewidth=2, label="a copy a task")
    together = [whole + n * adapter for n in tasks]
    axes.plot(tasks, together, color=GREEN, linewidth=2, label="one base, an adapter a task")
    axes.set(xscale="log", yscale="log", xlabel="tasks", ylabel="on disk (GB)")
    axes.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    axes.set_yticks([0.5, 1, 5, 10, 50], ["0.5", "1", "5", "10", "50"])
    axes.set_title("GPT-2 124M, float32, rank 8")
    axes.legend()
    return figure


def beyond_figure(
    scaled: torch.Tensor,
    levels: Sequence[float],
    errors: tuple[dict[int, float], tuple[float, float]],
    changes: dict[str, dict[str, tuple[float, float]]],
) -> Figure:
    """Chapter 10: weights and the levels of NF4, what it costs in error, what training did to W.

    scaled: weights divided by the largest of their block. errors: of NF4, block size -> relative
    error, and int8's (bits a weight, relative error). changes: way -> layer -> (mean change of
    length, mean 1 - cosine) of its rows.
    """
    figure, (left, middle, right) = new_figure(1, 3, width=12.5, height=4.2)
    draw_levels(left, scaled, levels)
    draw_errors(middle, *errors)
    draw_rows(right, changes)
    return figure


def evidence_figure(words: Sequence[str], evidence: Sequence[float]) -> Figure:
    """Chapter 11: what each token says for spam (to the right) or for ham, in nats."""
    figure, axes = new_figure(width=7.5, height=0.9 + 0.26 * len(words))
    colours = [RED if value > 0 else BLUE for value in evidence]
    axes.barh(range(len(words)), evidence, color=colours)
    axes.set_yticks(range(len(words)), [repr(word).strip("'") for word in words], fontsize=9)
    axes.invert_yaxis()
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set(
        xlabel="ln p(token | spam voice) - ln p(token | ham voice), nats",
        title="Ham to the left, spam to the right",
    )
    axes.grid(visible=False, axis="y")
    return figure
