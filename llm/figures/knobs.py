"""The figures of LoRA's knobs: rank, rule and rate together, and each knob against the default."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from llm.figures.style import (
    BLUE,
    DARK_GREY,
    GREEN,
    INK,
    ORANGE,
    PINK,
    RED,
    SKY,
    new_figure,
    save_figure,
)

RANKS = {1: SKY, 2: BLUE, 8: GREEN, 32: ORANGE, 64: RED}
FEW = 4  # pairs that an interval takes at least
KNOBS = {
    "rank": BLUE,
    "variant": GREEN,
    "quantisation": PINK,
    "placement": ORANGE,
    "method": RED,
}
PANELS = {  # metric, its factor so that more is better, what the axis says
    "writing": ("bits_per_byte", -1, "bits a byte saved against the default"),
    "spam": ("f1", 100, "points of F1 more than the default"),
}
VALIDATION = {"writing": "bits a byte, validation", "spam": "loss, validation (nats)"}


def knob_figures(results: dict, out: str | Path) -> list[Path]:
    """Draw both figures beside a data/knobs.json. Returns their paths."""
    return [
        save_figure(rate_figure(results), Path(out) / "knobs_rates.png"),
        save_figure(difference_figure(results), Path(out) / "knobs.png"),
    ]


def rate_figure(results: dict) -> Figure:
    """Validation against the learning rate: a panel for each rule and task, a line a rank."""
    rules = list(dict.fromkeys(cell["rule"] for cell in results["cells"] if cell["rule"]))
    figure, axes = new_figure(2, len(rules), width=10.5, height=6.4)
    for row, task in zip(axes, VALIDATION):
        cells = [cell for cell in results["cells"] if cell["task"] == task and cell["chosen"]]
        best = [_value(cell, cell["chosen"]) for cell in cells if cell["rule"] or _default(cell)]
        low, high = min(best), max(best)
        top = high + max(1.5 * (high - low), 0.04 * low)
        tried = {rate["learning_rate"] for cell in cells for rate in _grid(cell)}
        for panel, rule in zip(row, rules):
            for cell in cells:
                if cell["rule"] == rule or _default(cell):
                    draw_course(panel, cell, top)
            panel.set(xscale="log", ylim=(low - 0.08 * (top - low), top), title=f"{task}, {rule}")
            panel.set_xlabel("learning rate (highest)")
            panel.set_xticks(sorted(tried)[::2], [f"{rate:.3g}" for rate in sorted(tried)[::2]])
            panel.minorticks_off()
            panel.sharex(row[0])
            if panel is row[0]:
                panel.set_ylabel(VALIDATION[task])
    ranks = {cell["rank"] for cell in results["cells"] if cell["rule"] or _default(cell)}
    lines = [
        Line2D([], [], color=RANKS[rank], marker="o", label=f"rank {rank}")
        for rank in sorted(ranks)
    ]
    lines.append(Line2D([], [], color=INK, marker="o", linestyle="", markersize=10,
                        markerfacecolor="none", label="chosen"))  # fmt: skip
    lines.append(Line2D([], [], color=INK, marker="^", linestyle="", label="above the panel"))
    lines.append(Line2D([], [], color=INK, marker="x", linestyle="", label="diverged"))
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), fontsize=9)
    return figure


def draw_course(axes, cell: dict, top: float) -> None:
    """A cell's validation metric over its grid; what is above the panel, or no number, on top."""
    colour = RANKS[cell["rank"]]
    grid = [(rate["learning_rate"], rate["validation_mean"]) for rate in cell["grid"]]
    shown = [(rate, value) for rate, value in grid if value is not None]
    axes.plot(*zip(*shown), "-", color=colour, linewidth=1.5)
    inside = [(rate, value) for rate, value in shown if value <= top]
    axes.plot(*zip(*inside), "o", color=colour, markersize=4)
    for rate in cell["grid"]:
        value = rate["validation_mean"]
        if value is None or value > top:
            mark = "x" if rate["diverged"] else "^"
            axes.plot(
                rate["learning_rate"], 1.0 - _spread(cell["rank"]), mark, color=colour,
                transform=axes.get_xaxis_transform(), clip_on=False,
            )  # fmt: skip
    axes.plot(
        cell["chosen"], _value(cell, cell["chosen"]), "o",
        color=colour, markersize=10, markerfacecolor="none",
    )  # fmt: skip


def difference_figure(results: dict) -> Figure:
    """Each cell against the default on both tasks, at its own rate; right is better."""
    cells = [cell for cell in results["cells"] if _pairs(cell) >= FEW]
    names = list(dict.fromkeys(cell["cell"] for cell in cells))
    knob = {cell["cell"]: cell["knob"] for cell in results["cells"]}
    ranks = {cell["cell"]: cell["rank"] or 0 for cell in results["cells"]}
    names.sort(key=lambda n: (list(KNOBS).index(knob[n]), ranks[n] if knob[n] == "rank" else 0))
    figure, axes = new_figure(1, 2, width=10.5, height=1.2 + 0.22 * len(names))
    heights = {name: -number for number, name in enumerate(names)}
    for panel, (task, (metric, factor, label)) in zip(axes, PANELS.items()):
        panel.axvline(0, color=DARK_GREY, linewidth=1)
        pairs = set()
        for cell in cells:
            if cell["task"] == task:
                draw_difference(panel, cell, metric, factor, heights[cell["cell"]])
                pairs.add(cell["paired"][metric]["pairs"])
        panel.set_yticks(list(heights.values()), list(heights) if panel is axes[0] else [])
        panel.set_ylim(-len(names) + 0.4, 0.6)
        count = " to ".join(map(str, sorted({min(pairs), max(pairs)}))) if pairs else "0"
        panel.set(xlabel=label, title=f"{task}: {count} pairs, 95 % intervals")
        panel.grid(axis="y", visible=False)
    return figure


def draw_difference(axes, cell: dict, metric: str, factor: float, height: float) -> None:
    """A cell's mean difference and its interval; how many runs at its rate diverged beside it."""
    found = cell["paired"][metric]
    ends = sorted(factor * found[f"student_{end}"] for end in ("low", "high"))
    colour = KNOBS[cell["knob"]]
    axes.plot(ends, [height, height], "-", color=colour, linewidth=2)
    axes.plot(factor * found["mean"], height, "o", color=colour, markersize=6)
    if cell["diverged"]:
        axes.annotate(f"{cell['diverged']} of {cell['units']} diverged", (ends[1], height), (5, -3),
                      textcoords="offset points", fontsize=8, color=INK)  # fmt: skip


def _grid(cell: dict) -> list[dict]:
    """The rates of a cell that `rate_figure` shows."""
    return cell["grid"] if cell["rule"] or _default(cell) else []


def _default(cell: dict) -> bool:
    return cell["knob"] == "default"


def _pairs(cell: dict) -> int:
    """Pairs of runs that its difference to the default is of."""
    return cell["paired"][PANELS[cell["task"]][0]]["pairs"] if cell.get("paired") else 0


def _value(cell: dict, rate: float) -> float:
    return next(r["validation_mean"] for r in cell["grid"] if r["learning_rate"] == rate)


def _spread(rank: int) -> float:
    """How far below the top a rank's marks stand, so that they do not hide one another."""
    return 0.03 * list(RANKS).index(rank)
