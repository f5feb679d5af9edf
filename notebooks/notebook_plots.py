"""The figures of the story notebooks, in the style and colours of `llm.figures.style`.

Each function takes numbers that a notebook has computed and returns a figure.
"""

from collections.abc import Sequence

import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Polygon, Rectangle
from matplotlib.ticker import LogLocator

from llm.figures.labels import label_points
from llm.figures.style import (
    BLUE,
    COLOURS,
    DARK_GREY,
    GREEN,
    KINDS,
    NAMES,
    ORANGE,
    PINK,
    RED,
    SKY,
    new_figure,
    smooth,
)

MARKERS = "os^Dv"


def two_paths_figure(in_dim: int, out_dim: int, rank: int, alpha: float) -> Figure:
    """x through the frozen W and, beside it, through A and B; heights are true to scale."""
    figure, axes = new_figure(width=9, height=4.2)
    scale = 1.5 / max(in_dim, out_dim)  # height of the larger of the two vectors
    high_in, high_out, high_rank = scale * in_dim, scale * out_dim, max(scale * rank, 0.03)
    upper, lower, middle = 1.3, -1.3, 0.0

    def vector(x: float, y: float, height: float, colour: str, text: str) -> None:
        axes.add_patch(Rectangle((x - 0.07, y - height / 2), 0.14, height, color=colour))
        axes.text(x, y - max(high_in, high_out) / 2 - 0.12, text, ha="center", va="top")

    def funnel(x: float, y: float, left: float, right: float, colour: str, text: str) -> None:
        corners = [(x, y - left / 2), (x, y + left / 2), (x + 1.5, y + right / 2)]
        corners.append((x + 1.5, y - right / 2))
        axes.add_patch(Polygon(corners, facecolor=colour, edgecolor="white", alpha=0.85))
        axes.text(x + 0.75, y + max(left, right) / 2 + 0.1, text, ha="center", va="bottom")

    def arrow(start: tuple, end: tuple) -> None:
        axes.add_patch(
            FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=DARK_GREY)
        )

    vector(0, middle, high_in, BLUE, f"x\n{in_dim} numbers")
    funnel(2.9, upper, high_in, high_out, "#BBBBBB", f"W, frozen: {in_dim:,} x {out_dim:,}")
    funnel(1.6, lower, high_in, high_rank, GREEN, f"A: {in_dim:,} x {rank}")
    funnel(4.2, lower, high_rank, high_out, ORANGE, f"B: {rank} x {out_dim:,}")
    axes.text(3.65, lower - 0.12, f"{rank} numbers", ha="center", va="top", fontsize=9)
    arrow((3.14, lower), (4.16, lower))
    arrow((0.15, 0.15), (2.85, upper))
    arrow((0.15, -0.15), (1.55, lower))
    arrow((4.45, upper), (6.45, 0.1))
    arrow((5.75, lower), (6.45, -0.1))
    axes.text(6.2, lower - 0.45, f"times alpha / rank = {alpha / rank:g}", ha="left", va="center")
    axes.text(6.6, middle, "+", ha="center", va="center", fontsize=22)
    arrow((6.75, middle), (7.3, middle))
    vector(7.45, middle, high_out, BLUE, f"y\n{out_dim:,} numbers")
    axes.set(xlim=(-0.6, 8.4), ylim=(-2.35, 2.45))
    axes.set_axis_off()
    return figure


def spectrum_figure(
    name: str,
    spectra: dict[str, torch.Tensor],
    shares: dict[str, dict[str, Sequence[float]]],
    first: int,
) -> Figure:
    """How much of a matrix lies in its strongest directions.

    spectra: title -> singular values of one matrix, falling. shares: title -> kind of layer ->
    share of the energy in the `first` directions, a number a block.
    """
    figure, (left, right) = new_figure(1, 2, width=11, height=4.2)
    colours = (GREEN, DARK_GREY, SKY)
    for (title, values), colour, style in zip(spectra.items(), colours, ("-", "--", ":")):
        energy = 100 * (values**2).cumsum(0) / (values**2).sum()
        places = range(1, len(values) + 1)
        left.plot(places, energy, style, color=colour, linewidth=2, label=title)
    left.axvline(first, color="black", linewidth=0.8)
    left.text(first * 1.08, 3, f"{first} directions", fontsize=9)
    left.set(xscale="log", xlabel="directions kept, strongest first")
    left.set(ylabel="share of the squared numbers (%)", ylim=(0, 102), title=name)
    ticks = [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256) if n <= len(values)]
    left.set_xticks(ticks, ticks)
    left.minorticks_off()
    left.legend(loc="lower right", fontsize=9)
    kinds = list(next(iter(shares.values())))
    for number, ((title, by_kind), colour) in enumerate(zip(shares.items(), colours)):
        for place, kind in enumerate(kinds):
            values = [100 * share for share in by_kind[kind]]
            at = [place + 0.2 * (number - 1)] * len(values)
            label = title if place == 0 else None
            marker = MARKERS[number]
            right.plot(at, values, marker, color=colour, markersize=5, alpha=0.85, label=label)
    right.set_xticks(range(len(kinds)), kinds, fontsize=9)
    right.set(ylabel=f"share in the first {first} directions (%)", ylim=(0, 105))
    right.set_title("Every matrix of the blocks: one mark for each block")
    right.grid(axis="x", visible=False)
    # Below the panel: inside it the marks of a legend look like data.
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize=9, ncols=3)
    return figure


def truncation_figure(ranks: Sequence[int], metrics: Sequence[dict]) -> Figure:
    """Validation loss and F1 with the update cut to its strongest directions."""
    figure, (left, right) = new_figure(1, 2, width=10, height=3.4)
    places = range(len(ranks))
    left.plot(places, [m["loss"] for m in metrics], "o-", color=GREEN, linewidth=2)
    left.set(ylabel="validation loss (nats a message)", ylim=(0, None))
    right.plot(places, [100 * m["f1"] for m in metrics], "o-", color=GREEN, linewidth=2)
    right.set(ylabel="validation F1 for spam (%)", ylim=(0, 100))
    for panel in (left, right):
        panel.set_xticks(places, [str(rank) for rank in ranks])
        panel.set_xlabel("directions of every update that are kept")
    return figure


def curves_figure(curves: dict[str, Sequence[float]], ylabel: str, title: str) -> Figure:
    """One smoothed line a start."""
    figure, axes = new_figure(width=8, height=3.8)
    looks = zip(curves.items(), (GREEN, RED, ORANGE, BLUE), ("-", "--", "-.", ":"))
    for (name, losses), colour, style in looks:
        steps = range(1, len(losses) + 1)
        axes.plot(steps, smooth(list(losses), 0.8), style, color=colour, linewidth=2, label=name)
    axes.set(xlabel="optimizer step", ylabel=ylabel, ylim=(0, None), title=title)
    axes.legend()
    return figure


def scale_figure(panels: dict[str, dict[str, dict[int, float]]]) -> Figure:
    """Against the rank: what was learned, a panel a measure and a line a rule for the scale."""
    figure, axes = new_figure(1, len(panels), width=11, height=3.8)
    for panel, (label, sizes) in zip(axes, panels.items()):
        for (name, by_rank), colour, marker in zip(sizes.items(), (GREEN, BLUE, RED), MARKERS):
            ranks, values = list(by_rank), [100 * value for value in by_rank.values()]
            panel.plot(ranks, values, f"{marker}-", color=colour, linewidth=2, label=name)
        panel.set(xscale="log", yscale="log", xlabel="rank", ylabel=label)
        panel.set_xticks(ranks, ranks)
        panel.minorticks_off()
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
    axes[0].legend(fontsize=9)
    return figure


def trainable_figure(counts: dict[str, dict[str, int]]) -> Figure:
    """Trainable parameters: a column a base, a dot a method, logarithmic."""
    figure, axes = new_figure(width=9.5, height=4)
    bases = list(counts)
    methods = list(counts[bases[0]])
    for method, marker in zip(methods, MARKERS):  # on a logarithmic axis a bar has no length
        values = [counts[base][method] for base in bases]
        axes.plot(bases, values, marker, color=COLOURS[method], markersize=8, label=NAMES[method])
        for base, value in zip(bases, values):
            shown = f"{value / 1e6:,.1f}M" if value >= 1e5 else f"{value / 1e3:,.1f}k"
            place = {"xytext": (9, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(shown, (base, value), **place, fontsize=8)
    axes.margins(x=0.12)
    axes.set_xticks(range(len(bases)), bases)
    axes.set(yscale="log", ylabel="trainable parameters", ylim=(100, 1e10))
    axes.grid(axis="x", visible=False)
    # Above the panel: inside it the marks of a legend look like data.
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def ranks_figure(
    ranks: Sequence[int], targets: dict[str, Sequence[int]], levels: dict[str, int], title: str
) -> Figure:
    """Trainable parameters against the rank, a line a choice of targets; other methods level."""
    figure, axes = new_figure(width=9, height=4.4)
    for (name, values), colour, marker in zip(targets.items(), (SKY, BLUE, PINK, GREEN), MARKERS):
        axes.plot(ranks, values, f"{marker}-", color=colour, markersize=5, label=f"LoRA, {name}")
    for (name, value), style in zip(levels.items(), ("-", "--", ":")):
        axes.axhline(value, color="black", linestyle=style, linewidth=1.2)
        axes.text(ranks[0], value * 1.12, name, fontsize=9)
    axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="trainable parameters", title=title)
    axes.set_xticks(ranks, ranks)
    axes.minorticks_off()
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def stack_figure(accounts: dict[str, dict[str, int]], title: str, unit: float = 1e6) -> Figure:
    """Memory of a step by kind, a horizontal bar a case, with the sum behind it."""
    figure, axes = new_figure(width=9.5, height=0.9 + 0.42 * len(accounts))
    draw_stack(axes, accounts, unit)
    axes.set_title(title)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def stacks_figure(groups: dict[str, dict[str, dict[str, int]]], unit: float = 1e6) -> Figure:
    """A panel a group of cases, side by side."""
    rows = max(len(accounts) for accounts in groups.values())
    figure, panels = new_figure(1, len(groups), width=11, height=1.2 + 0.4 * rows)
    for panel, (title, accounts) in zip(panels, groups.items()):
        draw_stack(panel, accounts, unit)
        panel.set_title(title)
    widest = max(panel.get_xlim()[1] for panel in panels)
    for panel in panels:  # one scale, so that lengths can be compared
        panel.set_xlim(0, widest)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_stack(axes, accounts: dict[str, dict[str, int]], unit: float) -> None:
    """Stacked horizontal bars of memory by kind."""
    left = [0.0] * len(accounts)
    for kind, colour in KINDS.items():
        widths = [account[kind] / unit for account in accounts.values()]
        axes.barh(
            range(len(accounts)), widths, 0.66, left, color=colour, label=kind, edgecolor="white"
        )
        left = [start + width for start, width in zip(left, widths)]
    digits = 1 if max(left) < 100 else 0
    for place, total in enumerate(left):
        axes.annotate(
            f"{total:,.{digits}f}",
            (total, place),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set_yticks(range(len(accounts)), list(accounts))
    axes.invert_yaxis()
    axes.set(
        xlim=(0, 1.15 * max(left)), xlabel=f"memory of a step ({'GB' if unit > 1e8 else 'MB'})"
    )
    axes.grid(axis="y", visible=False)


def reliability_figure(bins: dict[str, list[tuple[float, float, int]]]) -> Figure:
    """What a model says against how often it is so; bins: (mean probability, share, messages)."""
    figure, axes = new_figure(width=6, height=4.6)
    axes.plot([0, 100], [0, 100], color=DARK_GREY, linewidth=1, label="perfectly calibrated")
    lines, points, counts = [[(0, 0), (100, 100)]], [], []
    for (method, rows), marker in zip(bins.items(), MARKERS):
        lines.append([(100 * said, 100 * found) for said, found, _ in rows])
        look = {"color": COLOURS[method], "label": NAMES[method]}
        axes.plot(*zip(*lines[-1]), f"{marker}-", **look)
        points += lines[-1]
        counts += [(str(n), COLOURS[method]) for *_, n in rows]
    axes.set(xlabel="the model says: spam with (%)", ylabel="of these messages are spam (%)")
    axes.set(xlim=(-6, 108), ylim=(-8, 112))  # room for the numbers beside the outermost points
    axes.set_title("The small numbers count the messages of a point")
    axes.legend(loc="upper left")
    label_points(axes, points, *zip(*counts), lines=lines)
    return figure


def ablation_figure(rows: dict[str, dict[str, Sequence[float]]], xlabels: Sequence[str]) -> Figure:
    """A panel an ablation: validation F1, a mark a seed and a line through the means."""
    figure, panels = new_figure(1, len(rows), width=11, height=3.6)
    for panel, (title, cases), xlabel in zip(panels, rows.items(), xlabels):
        means = [100 * sum(values) / len(values) for values in cases.values()]
        panel.plot(range(len(cases)), means, "-", color=GREEN, linewidth=1.5, label="mean")
        for place, values in enumerate(cases.values()):
            label = "one seed" if place == 0 else None
            marks = [100 * value for value in values]
            panel.plot([place] * len(values), marks, "o", color=GREEN, alpha=0.7, label=label)
        panel.set_xticks(range(len(cases)), [name.replace(", ", ",\n") for name in cases])
        panel.set(xlabel=xlabel, ylabel="validation F1 for spam (%)", title=title)
    bottom = min(panel.get_ylim()[0] for panel in panels)
    for panel in panels:
        panel.set_ylim(bottom, 100)
    panels[-1].legend(loc="lower right", fontsize=9)
    return figure


def bars_figure(values: dict[str, float], colours: Sequence[str], label: str, form: str) -> Figure:
    """A few bars with their values, horizontal."""
    figure, axes = new_figure(width=8, height=0.9 + 0.45 * len(values))
    bars = axes.barh(range(len(values)), list(values.values()), 0.6, color=list(colours))
    axes.bar_label(bars, [format(value, form) for value in values.values()], padding=4)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set(xlabel=label, xlim=(0, 1.15 * max(values.values())))
    axes.grid(axis="y", visible=False)
    return figure


def storage_lines_figure(measured: list[dict], most: int) -> Figure:
    """Bytes on disk against the number of tasks; dots are measured, lines go on from them."""
    figure, axes = new_figure(width=7.5, height=4)
    done = len(measured)
    for key, name, colour, marker in (
        ("full_bytes", "a fine-tuned copy for each task", RED, "o"),
        ("adapter_bytes", "one base, an adapter for each task", GREEN, "s"),
    ):
        dots = [entry[key] / 1e6 for entry in measured]
        axes.plot(range(1, done + 1), dots, marker, color=colour, markersize=8)
        further = [dots[-1] + n * (dots[-1] - dots[-2]) for n in range(1, most - done + 1)]
        axes.plot(range(1, most + 1), dots + further, color=colour, label=name)
    axes.set(xscale="log", yscale="log", xlabel="tasks", ylabel="on disk (MB)")
    ticks = [n for n in (1, 2, 5, 10, 20, 50, 100) if n <= most]
    axes.set_xticks(ticks, ticks)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_title("Dots: measured. Lines: if every further task takes as much as the second")
    axes.legend()
    return figure
