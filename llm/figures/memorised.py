"""The figure of what voices remember: messages that repeat training messages, by rank."""

import statistics
from collections.abc import Callable

from matplotlib.figure import Figure

from llm.figures.style import DARK_GREY, GREEN, INK, RED, new_figure

KINDS = {  # what is looked for, and how it is drawn
    "training messages": (lambda row: row["train_part_share"], "o-"),
    "as many unseen ones": (lambda row: row["unseen"]["share"], "s--"),
}


def memorised_figure(result: dict, voice: str) -> Figure:
    """Shares of written messages that repeat ten tokens in a row, LoRA's by rank, full's beside.

    Args:
        result: what `llm.studies.memorised` writes.
        voice: its name, for the title.
    """
    figure, axes = new_figure(width=7.5, height=3.9)
    ranks = sorted(
        {int(row["way"].removeprefix("lora_")) for row in result["rows"] if _is_lora(row)}
    )
    for label, (share, style) in KINDS.items():
        values = [_mean_and_deviation(result, f"lora_{rank}", share) for rank in ranks]
        axes.errorbar(
            range(len(ranks)),
            [mean for mean, _ in values],
            [deviation for _, deviation in values],
            fmt=style,
            color=GREEN,
            capsize=3,
            label=f"LoRA, {label}",
        )
        mean, _ = _mean_and_deviation(result, "full", share)
        axes.axhline(mean, color=RED, linestyle=style[1:], linewidth=1.2, label=f"full, {label}")
    axes.set(
        xticks=range(len(ranks)),
        xticklabels=ranks,
        xlabel="LoRA's rank",
        ylabel="messages that repeat, %",
        title=f"Of {result['written']:,} messages by the {voice} voice, those that repeat "
        f"{result['length']} tokens in a row",
    )
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=9, labelcolor=INK)
    axes.tick_params(colors=DARK_GREY, labelcolor=INK)
    return figure


def _is_lora(row: dict) -> bool:
    return row["way"].startswith("lora_")


def _mean_and_deviation(result: dict, way: str, share: Callable) -> tuple[float, float]:
    shares = [100 * share(row) for row in result["rows"] if row["way"] == way]
    return statistics.fmean(shares), statistics.stdev(shares) if len(shares) > 1 else 0.0
