"""The figure of `python -m llm.benchmark gpus`: several cards, LoRA beside full fine-tuning."""

import statistics

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from llm.figures.style import COLOURS, GREY, INK, NAMES, new_figure

SIZES = {"gpt2": "124M", "gpt2-medium": "355M", "gpt2-large": "774M", "gpt2-xl": "1558M"}
STYLES = {"gpt2": ":^", "gpt2-medium": "--s", "gpt2-large": "-.d", "gpt2-xl": "-o"}


def scaling_figure(results: list[dict]) -> Figure:
    """How the work grows with the number of cards, what is exchanged, and what that takes.

    Args:
        results: as `llm.benchmark.gpus.gpus` returns them. A line needs a measurement on one card.
    """
    rows = [row for row in results if "skipped" not in row]
    counts = sorted({row["cards"] for row in rows})
    figure, panels = new_figure(2, 2, width=9.5, height=7.2)
    shown: set[tuple[str, str]] = set()
    titles = {
        "weak": "Weak scaling: as many messages for each card",
        "strong": "Strong scaling: as many messages in all",
    }
    for panel, (scaling, title) in zip(panels[0], titles.items()):
        panel.plot(counts, counts, color=GREY, linewidth=1, linestyle="--")
        for method, shape, line in _lines(rows, scaling):
            alone = next((row for row in line if row["cards"] == 1), None)
            if alone is None or len(line) < 2:
                continue
            rate = alone["messages_per_second"]
            times = [row["messages_per_second"] / rate for row in line]
            _draw(panel, method, shape, line, times)
            shown.add((method, shape))
        _axis_of_cards(panel, counts, "messages a second, one card's = 1", title)
        panel.set_yscale("log", base=2)
        panel.set_yticks(counts, counts)
    exchanged, share = panels[1]
    for method, shape, line in _lines(rows, "weak"):
        several = [row for row in line if row["cards"] > 1]
        if not several:
            continue
        _draw(exchanged, method, shape, several, [row["exchanged_bytes"] / 1e6 for row in several])
        step = [
            100 * statistics.median(row["exchange_seconds"]) / statistics.median(row["seconds"])
            for row in several
        ]
        _draw(share, method, shape, several, step)
        shown.add((method, shape))
    _axis_of_cards(exchanged, counts, "MB a card and step", "Gradients exchanged")
    exchanged.set_yscale("log")
    title = "The exchange by itself, weak scaling"
    _axis_of_cards(share, counts, "% of the time of a step", title)
    share.set_ylim(bottom=0)
    _legend(figure, shown)
    return figure


def _lines(rows: list[dict], scaling: str) -> list[tuple[str, str, list[dict]]]:
    """Method, shape, and their measurements by number of cards."""
    here = [row for row in rows if row["scaling"] == scaling]
    kinds = dict.fromkeys((row["method"], row["shape"]) for row in here)
    found = []
    for method, shape in sorted(kinds, key=lambda kind: list(SIZES).index(kind[1])):
        line = [row for row in here if (row["method"], row["shape"]) == (method, shape)]
        found.append((method, shape, sorted(line, key=lambda row: row["cards"])))
    return found


def _draw(panel, method: str, shape: str, line: list[dict], values: list[float]) -> None:
    style, cards = STYLES[shape], [row["cards"] for row in line]
    panel.plot(cards, values, style, color=COLOURS[method], markersize=5, linewidth=1.5)


def _axis_of_cards(panel, counts: list[int], label: str, title: str) -> None:
    panel.set_xscale("log", base=2)
    panel.set_xticks(counts, counts)
    panel.set_xlim(0.9 * min(counts, default=1), 1.1 * max(counts, default=2))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set(xlabel="cards", ylabel=label, title=title)


def _legend(figure: Figure, shown: set[tuple[str, str]]) -> None:
    """One for all panels: a colour a method, a line a shape."""
    methods = [name for name in ("lora", "full") if any(name == method for method, _ in shown)]
    shapes = [name for name in SIZES if any(name == shape for _, shape in shown)]
    entries = [Line2D([], [], color=COLOURS[name], label=NAMES[name]) for name in methods]
    for name in shapes:
        style, marker = STYLES[name][:-1], STYLES[name][-1]
        entries.append(Line2D([], [], color=INK, linestyle=style, marker=marker, label=SIZES[name]))
    entries.append(Line2D([], [], color=GREY, linestyle="--", label="as many times as cards"))
    figure.legend(handles=entries, loc="outside lower center", ncols=len(entries))
