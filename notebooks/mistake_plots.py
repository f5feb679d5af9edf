"""The figures of the notebook on mistakes, in the style and colours of `llm.figures.style`.

Each function takes numbers that the notebook has computed and returns a figure.
"""

from collections.abc import Sequence

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from llm.figures.style import BLUE, COLOURS, DARK_GREY, INK, ORANGE, SKY, new_figure

LOOKS = {
    "LoRA": (COLOURS["lora"], "o"),
    "TF-IDF": (DARK_GREY, "s"),
    "LoRA, the short run": (SKY, "D"),
}
FOR, AGAINST = ORANGE, BLUE  # what speaks for spam, and against it
SHADES = LinearSegmentedColormap.from_list("shades", ["#FFFFFF", COLOURS["lora"]])


def confusion_figure(tables: dict[str, dict[str, int]]) -> Figure:
    """A panel a table: what the messages are (rows) against what the model says (columns).

    The shade is the share of a row, so that it can be seen beside so much ham how much of the spam
    is missed.
    """
    figure, panels = new_figure(1, len(tables), width=4.2 * len(tables), height=3.4)
    for panel, (title, table) in zip(panels, tables.items()):
        rows = (
            (table["true_ham"], table["alarms"]),
            (table["missed"], table["found"]),
        )
        shares = [[count / sum(row) for count in row] for row in rows]
        panel.imshow(shares, cmap=SHADES, vmin=0, vmax=1, aspect="auto")
        for y, row in enumerate(rows):
            for x, count in enumerate(row):
                colour = "white" if shares[y][x] > 0.6 else "black"
                text = f"{count}\n{100 * shares[y][x]:.1f} %"
                panel.text(x, y, text, ha="center", va="center", color=colour, fontsize=12)
        panel.set_xticks([0, 1], ["ham", "spam"])
        panel.set_yticks([0, 1], ["ham", "spam"])
        panel.set(xlabel="the model says", ylabel="it is", title=title)
        panel.grid(visible=False)
        panel.spines[:].set_visible(False)
    return figure


def threshold_figure(
    curves: dict[str, tuple], marks: dict[str, tuple[float, float]], by_threshold: dict, at: float
) -> Figure:
    """Precision against recall, and F1 against the threshold.

    Args:
        curves: name -> (recall, precision) on the test messages.
        marks: name of a threshold -> (recall, precision) of LoRA there.
        by_threshold: part -> (thresholds, F1) of LoRA.
        at: the threshold that was chosen.
    """
    figure, (left, right) = new_figure(1, 2, width=11, height=4)
    for (name, (recall, precision)), style in zip(curves.items(), ("-", "--")):
        left.plot(100 * recall, 100 * precision, style, color=LOOKS[name][0], label=name)
    for (name, (recall, precision)), marker in zip(marks.items(), "oD"):
        left.plot(
            100 * recall,
            100 * precision,
            marker,
            color="black",
            markersize=7,
            label=f"LoRA, {name}",
        )
    left.set(xlabel="recall: spam that is found (%)", xlim=(40, 101), ylim=(40, 101))
    left.set(ylabel="precision: of what is called spam (%)", title="Test messages")
    left.legend(loc="lower left", fontsize=9)
    for (part, (thresholds, f1)), colour, style in zip(
        by_threshold.items(), (ORANGE, COLOURS["lora"]), ("--", "-")
    ):
        right.plot(thresholds, [100 * value for value in f1], style, color=colour, label=part)
    for value, text, where in ((0.5, "one half", "left"), (at, "chosen", "right")):
        right.axvline(value, color=INK, linewidth=1, linestyle=":")
        x = value + (0.01 if where == "left" else -0.01)
        right.text(x, 97, text, ha=where, fontsize=9, color=INK)
    right.set(xlabel="threshold", ylabel="F1 for spam (%)", ylim=(40, 100), xlim=(0, 1))
    right.set_title("LoRA: validation messages choose the threshold")
    right.legend(loc="lower left", bbox_to_anchor=(0.1, 0), fontsize=9)
    return figure


def reliability_intervals_figure(panels: dict[str, dict[str, list[dict]]]) -> Figure:
    """What a model says against what is so, in a few bins.

    Args:
        panels: title -> model -> bins with `name`, `messages`, `said` (mean, 0 to 1), `share` of
            spam, and the `low` and `high` end of its interval.
    """
    figure, axes = new_figure(1, len(panels), width=11, height=4.4)
    for panel, (title, models) in zip(axes, panels.items()):
        for number, (model, bins) in enumerate(models.items()):
            colour, marker = LOOKS[model]
            shift = 0.16 * (2 * number - len(models) + 1)
            for place, entry in enumerate(bins):
                if not entry["messages"]:
                    continue
                x, share = place + shift, 100 * entry["share"]
                ends = [[share - 100 * entry["low"]], [100 * entry["high"] - share]]
                label = model if place == 0 else None
                panel.errorbar(
                    x, share, ends, fmt=marker, color=colour, capsize=3, markersize=6, label=label
                )
                said = "what it says" if (place, number) == (0, 0) else None
                panel.plot(x, 100 * entry["said"], "_", color="black", markersize=13, label=said)
                x = place + 1.5 * shift
                panel.text(x, 107, str(entry["messages"]), ha="center", fontsize=7, color=colour)
        panel.set_xticks(range(len(bins)), [entry["name"] for entry in bins], fontsize=8)
        panel.set(xlabel="the model says: spam with (%)", ylim=(-4, 114))
        panel.set_yticks(range(0, 101, 20))
        panel.set_title(title)
        panel.grid(axis="x", visible=False)
    axes[0].set_ylabel("of these messages are spam (%)")
    axes[-1].legend(loc="upper left", bbox_to_anchor=(0, 0.92), fontsize=9)
    return figure


def splits_figure(panels: dict[str, dict[str, dict[str, Sequence[float]]]], ylabel: str) -> Figure:
    """Panels of cases; for each case a model's values, a mark a split and a bar for their mean.

    Args:
        panels: title -> case -> model -> a share a split.
    """
    figure, axes = new_figure(1, len(panels), width=max(8, 5.5 * len(panels)), height=3.9)
    axes = axes if len(panels) > 1 else [axes]
    for panel, (title, cases) in zip(axes, panels.items()):
        for place, models in enumerate(cases.values()):
            for number, (model, values) in enumerate(models.items()):
                colour, marker = LOOKS[model]
                width = 0.8 / len(models)
                x = place + width * (number - (len(models) - 1) / 2)
                values = [100 * value for value in values]
                label = model if place == 0 else None
                mean = sum(values) / len(values)
                panel.bar(x, mean, 0.9 * width, color=colour, alpha=0.45, label=label)
                panel.plot([x] * len(values), values, marker, color=colour, markersize=4)
                panel.text(x, max(*values, mean) + 2, f"{mean:.0f}", ha="center", fontsize=9)
        panel.set_xticks(range(len(cases)), list(cases), fontsize=9)
        panel.set(ylim=(0, 113), ylabel=ylabel, title=title)
        panel.set_yticks(range(0, 101, 20))
        panel.grid(axis="x", visible=False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def ways_figure(
    held: dict[str, dict[str, float]], missed: dict[str, dict[str, tuple[int, int, float, float]]]
) -> Figure:
    """What messages give their reader to act on, and how much spam of each sort is missed.

    Args:
        held: whose messages -> way -> share of them.
        missed: model -> way -> (missed, of, low, high): counts and the interval of their share.
    """
    figure, (left, right) = new_figure(1, 2, width=11, height=4.4)
    ways = list(next(iter(held.values())))
    height = 0.8 / len(held)
    for number, ((whose, shares), colour) in enumerate(
        zip(held.items(), ("#1B4965", "#62B6CB", "#D55E00", "#F2B48A"))
    ):
        at = [place + height * (number - (len(held) - 1) / 2) for place in range(len(ways))]
        left.barh(at, [100 * share for share in shares.values()], height, color=colour, label=whose)
    left.set_yticks(range(len(ways)), ways)
    left.invert_yaxis()
    left.set(xlabel="share of the messages (%)", title="What they give the reader to act on")
    below = {"fontsize": 9, "loc": "upper center", "bbox_to_anchor": (0.4, -0.16), "ncols": 2}
    left.legend(**below)
    left.grid(axis="y", visible=False)
    for number, (model, rows) in enumerate(missed.items()):
        colour, marker = LOOKS[model]
        for place, (wrong, of, low, high) in enumerate(rows.values()):
            y, share = place + 0.15 * (2 * number - 1), 100 * wrong / of
            ends = [[share - 100 * low], [100 * high - share]]
            label = model if place == 0 else None
            right.errorbar(share, y, xerr=ends, fmt=marker, color=colour, capsize=3, label=label)
            right.text(103, y, f"{wrong} of {of}", fontsize=8, color=colour, va="center")
    right.set_yticks(range(len(ways)), ways)
    right.invert_yaxis()
    right.set(xlabel="spam that is missed (%)", xlim=(-2, 122))
    right.set_xticks(range(0, 101, 20))
    right.set_title("Test spam of all splits together")
    right.grid(axis="y", visible=False)
    right.legend(**below)
    return figure


def kinds_figure(kinds: dict[str, dict[str, tuple[int, int]]]) -> Figure:
    """Everyday messages answered as a person would: kind -> model -> (right, of)."""
    figure, axes = new_figure(width=9, height=1.0 + 0.42 * len(kinds))
    for place, models in enumerate(kinds.values()):
        for number, (model, (right, of)) in enumerate(models.items()):
            colour, _ = LOOKS[model]
            y = place + 0.19 * (2 * number - len(models) + 1)
            label = model if place == 0 else None
            axes.barh(y, 100 * right / of, 0.36, color=colour, label=label)
            axes.text(100 * right / of + 1, y, f"{right} of {of}", va="center", fontsize=8)
    axes.set_yticks(range(len(kinds)), list(kinds))
    axes.invert_yaxis()
    axes.set(xlabel="right (%)", xlim=(0, 112))
    axes.set_xticks(range(0, 101, 20))
    axes.grid(axis="y", visible=False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def words_figure(messages: dict[str, list[tuple[str, float]]]) -> Figure:
    """A panel a message: the words whose absence changes the answer most, in nats of log-odds."""
    figure, axes = new_figure(2, (len(messages) + 1) // 2, width=11, height=5.6)
    for panel, (title, words) in zip(axes.flat, messages.items()):
        effects = [effect for _, effect in words]
        colours = [FOR if effect > 0 else AGAINST for effect in effects]
        panel.barh(range(len(words)), effects, 0.65, color=colours)
        panel.set_yticks(range(len(words)), [word for word, _ in words], fontsize=9)
        panel.invert_yaxis()
        panel.axvline(0, color=INK, linewidth=0.8)
        panel.set_title(title, fontsize=9)
        panel.grid(axis="y", visible=False)
    for panel in axes[-1]:
        panel.set_xlabel("log-odds of spam with the word less without it (nats)", fontsize=9)
    return figure
