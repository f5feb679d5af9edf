"""The figures of chapters 1 to 6, GPT-2, in the style and colours of `llm.figures.style`.

Each function takes numbers that a chapter has computed and returns a figure.
"""

import math
from collections.abc import Sequence

import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from llm.figures.labels import label_points
from llm.figures.style import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, YELLOW, new_figure

SHADES = LinearSegmentedColormap.from_list("white to blue", ["#FFFFFF", SKY, BLUE, "#002B45"])


def tokenizing_figure(cut: dict[str, list], counts: dict[str, list[int]]) -> Figure:
    """Chapter 1: words joined merge by merge, and how many tokens a message takes.

    cut: word -> its parts after each merge. counts: vocabulary -> tokens of every message.
    """
    figure, (left, right) = new_figure(1, 2, width=11, height=4.6)
    row, colours = 0, (SKY, ORANGE)
    for steps in cut.values():
        for parts in steps:
            at = 0
            for number, part in enumerate(parts):
                text = part.decode(errors="replace").replace(" ", "␣")
                left.barh(row, len(text), 0.86, at, color=colours[number % 2], edgecolor="white")
                left.text(at + len(text) / 2, row, text, ha="center", va="center", fontsize=8)
                at += len(text)
            row += 1
        row += 1
    left.invert_yaxis()
    left.set(xlabel="characters", yticks=[], title="Three words, a merge a line")
    left.grid(visible=False)
    left.spines["left"].set_visible(False)
    bins = range(0, 312, 12)
    for (name, values), colour in zip(counts.items(), (GREY, ORANGE, BLUE, GREEN)):
        inside = [min(value, 311) for value in values]
        right.hist(inside, bins, histtype="step", linewidth=1.8, color=colour, label=name)
    right.set(xlabel="tokens in a message (the last bin: 300 and more)", ylabel="messages")
    right.set_title("Training messages")
    right.legend(title="vocabulary")
    return figure


def padding_figure(
    lengths: Sequence[int], batches: dict[str, Sequence[int]], computed: dict[str, int]
) -> Figure:
    """Chapter 2: two batches with their padding, and what each way of batching computes.

    lengths: of all messages. batches: name -> lengths of its messages. computed: name -> tokens.
    """
    figure, axes = new_figure(1, 3, width=12, height=4.2)
    right_edge = 1.05 * max(max(rows) for rows in batches.values())
    for panel, (name, rows) in zip(axes, batches.items()):
        widest = max(rows)
        panel.barh(range(len(rows)), [widest] * len(rows), 0.85, color="#DDDDDD", label="padding")
        panel.barh(range(len(rows)), rows, 0.85, color=BLUE, label="real tokens")
        share = 100 * (1 - sum(rows) / widest / len(rows))
        panel.set(xlabel="position (tokens)", ylabel="message of the batch", xlim=(0, right_edge))
        panel.set_title(f"{name}: {share:.0f} % padding")
        panel.grid(visible=False)
    axes[1].legend(loc="lower right")
    names = ["longest\nof all", "random\nbatches", "sorted", "packed"]
    bars = axes[2].bar(names, [count / 1e3 for count in computed.values()], 0.62, color=ORANGE)
    bars[-1].set_color(GREEN)
    axes[2].axhline(sum(lengths) / 1e3, color="black", linewidth=1.2, linestyle=":")
    axes[2].bar_label(bars, [f"{count / 1e3:,.0f}" for count in computed.values()], padding=2)
    axes[2].set(ylabel="tokens computed an epoch (thousands)", title="What an epoch computes")
    axes[2].grid(axis="x", visible=False)
    return figure


def embeddings_figure(
    words: list[tuple[str, str]], flat: torch.Tensor, similar: torch.Tensor, weights: str
) -> Figure:
    """Chapter 3: groups of words in a plane, and how alike the positions are.

    words: (group, word) each; flat: (words, 2); similar: (positions, positions) cosines.
    """
    figure, (left, right) = new_figure(1, 2, width=11.5, height=5)
    colours: dict[int, str] = {}
    for group, colour in zip(dict.fromkeys(g for g, _ in words), (BLUE, RED, GREEN, PINK, "black")):
        mine = [index for index, (name, _) in enumerate(words) if name == group]
        left.plot(*flat[mine].T, "o", color=colour, markersize=5, label=group)
        colours |= dict.fromkeys(mine, colour)
    left.set(xlabel="first direction (cosine units)", ylabel="second direction (cosine units)")
    left.set_title(f"Token embeddings, {weights} weights")
    left.margins(0.08)
    left.legend(fontsize=8, loc="lower left")
    image = right.imshow(similar, cmap="PuOr", vmin=-1, vmax=1)
    right.set(xlabel="position", ylabel="position", title="Position embeddings")
    right.grid(visible=False)
    figure.colorbar(image, ax=right, shrink=0.8, label="cosine")
    names = [word for _, word in words]
    label_points(left, flat.tolist(), names, [colours[index] for index in range(len(words))])
    return figure


def attention_figure(weights: torch.Tensor, tokens: Sequence[str]) -> Figure:
    """Chapter 4: three heads' weights for a message, and the mean over all heads.

    weights: (n_layers, n_heads, tokens, tokens).
    """
    layers, heads, n, _ = weights.shape
    last = weights[:, :, -1].amax(-1)  # (n_layers, n_heads): how decided the last token is
    sharpest = last.flatten().topk(min(3, layers * heads)).indices.tolist()
    panels = [
        (f"block {at // heads}, head {at % heads}", weights[at // heads, at % heads])
        for at in sharpest
    ] + [("mean over all heads", weights.mean((0, 1)))]
    figure, axes = new_figure(2, 2, width=11, height=10.5)
    labels = [token.strip() or "␣" for token in tokens]
    size = 8 if n <= 30 else 5
    for panel, (title, table) in zip(axes.flat, panels):
        # The square root shows small weights too; the colour bar tells the weights themselves.
        image = panel.imshow(table.sqrt(), cmap=SHADES, vmin=0, vmax=1)
        panel.set_xticks(range(n), labels, rotation=90, fontsize=size)
        panel.set_yticks(range(n), labels, fontsize=size)
        panel.set(xlabel="listens to", ylabel="token", title=title)
        panel.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, shrink=0.5, label="weight (%)")
    bar.set_ticks([0, 0.1**0.5, 0.25**0.5, 0.5**0.5, 1], labels=["0", "10", "25", "50", "100"])
    return figure


def parameters_by_part_figure(parts: dict[str, dict[str, int]]) -> Figure:
    """Chapter 5: the share of each part in each preset's parameters."""
    figure, axes = new_figure(width=8.5, height=3.8)
    presets = list(parts)
    left = [0.0] * len(presets)
    for part, colour in zip(next(iter(parts.values())), (ORANGE, YELLOW, BLUE, GREEN, GREY)):
        shares = [100 * parts[name][part] / sum(parts[name].values()) for name in presets]
        axes.barh(range(len(presets)), shares, 0.65, left, color=colour, label=part)
        left = [start + share for start, share in zip(left, shares)]
    totals = [f"{name}\n{sum(parts[name].values()) / 1e6:,.1f} M" for name in presets]
    axes.set_yticks(range(len(presets)), totals)
    axes.invert_yaxis()
    axes.set(xlabel="share of the parameters (%)", xlim=(0, 100))
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=5, fontsize=9)
    return figure


def tiny_pretraining_figure(history: dict) -> Figure:
    """Chapter 6: the loss of a few dozen steps, and the validation loss on the way."""
    figure, axes = new_figure(width=7, height=3.8)
    curve, evaluations = history["curve"], history["evaluations"]
    axes.plot(
        [point["step"] for point in curve],
        [point["loss"] for point in curve],
        color=SKY,
        linewidth=1.6,
        label="training, every step",
    )
    axes.plot(
        [point["step"] for point in evaluations],
        [point["loss"] for point in evaluations],
        "o",
        color=RED,
        label="validation",
    )
    blind = math.log(8192)
    axes.axhline(blind, color="black", linestyle=":", linewidth=1.2, label="guessing blindly")
    axes.set(xlabel="optimizer step", ylabel="loss (nats a token)")
    axes.set_title("A tiny model learns from text messages")
    axes.legend()
    return figure
