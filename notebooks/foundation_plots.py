"""The figures of notebooks A1 to A8, in the style and colours of `llm.figures.style`.

Each function takes numbers that a notebook has computed and returns a figure.
"""

from collections.abc import Sequence

import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch
from matplotlib.figure import Figure

from llm.figures.style import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    NAMES,
    ORANGE,
    PINK,
    RED,
    SKY,
    YELLOW,
    new_figure,
    smooth,
)

# Tokens ------------------------------------------------------------------------------------------


def merges_figure(cut: dict[str, list[list[bytes]]]) -> Figure:
    """A panel a word, a line a merge; neighbouring tokens in two colours."""
    figure, panels = new_figure(1, len(cut), width=10, height=2.9)
    deepest = max(map(len, cut.values()))
    for panel, (word, steps) in zip(panels, cut.items()):
        for row, parts in enumerate(steps):
            _draw_pieces(panel, row, parts, 11)
        tokens = "1 token" if len(steps[-1]) == 1 else f"{len(steps[-1])} tokens"
        panel.set(title=f"{word!r}: {len(steps[0])} bytes, {tokens}")
        panel.set(ylim=(deepest - 0.4, -0.6), yticks=range(len(steps)), xticks=[])
        _without_frame(panel)
    panels[0].set_ylabel("merges made")
    return figure


def cuts_figure(pieces: dict[str, list[bytes]]) -> Figure:
    """The same text cut by different vocabularies, one under the other."""
    figure, axes = new_figure(width=11, height=3.1)
    for row, (name, parts) in enumerate(pieces.items()):
        _draw_pieces(axes, row, parts, 9, 0.56)
        axes.text(0, row - 0.36, f"{name}: {len(parts)} tokens", fontsize=9, va="bottom")
    axes.set(ylim=(len(pieces) - 0.5, -0.8), xticks=[], yticks=[])
    _without_frame(axes)
    return figure


def batch_figure(rows: list[list[str]]) -> Figure:
    """Messages as a rectangle of tokens, padded on the right; rows: the tokens of each."""
    longest = max(map(len, rows))
    figure, axes = new_figure(width=12, height=0.55 * len(rows) + 0.8)
    for place, row in enumerate(rows):
        axes.barh(place, longest, 0.8, color="#DDDDDD")
        for at, token in enumerate(row):
            axes.barh(place, 1, 0.8, at, color=(SKY, ORANGE)[at % 2], edgecolor="white")
            axes.text(at + 0.5, place, shown(token), ha="center", va="center", fontsize=7.5)
        if longest - len(row) > 2:
            middle = (longest + len(row)) / 2
            axes.text(middle, place, "padding", ha="center", va="center", fontsize=9)
    axes.set(xlabel="position (tokens)", ylabel="message", yticks=range(len(rows)))
    axes.set_xticks(range(0, longest + 1, 5))
    axes.set(xlim=(0, longest), ylim=(len(rows) - 0.5, -0.5))
    axes.grid(visible=False)
    return figure


def computed_figure(computed: dict[str, int]) -> Figure:
    """Tokens that an epoch computes for each way of batching; the last has no padding."""
    figure, axes = new_figure(width=9, height=2.6)
    real = list(computed.values())[-1] / 1e3
    counts = [count / 1e3 for count in computed.values()]
    axes.barh(range(len(counts)), counts, 0.62, color="#DDDDDD", label="padding")
    axes.barh(range(len(counts)), [real] * len(counts), 0.62, color=BLUE, label="real tokens")
    for place, count in enumerate(counts):
        axes.text(count + 0.01 * max(counts), place, f"{count:,.0f}", va="center")
    axes.set_yticks(range(len(counts)), list(computed))
    axes.invert_yaxis()
    axes.set(xlabel="tokens computed in an epoch (thousands)", xlim=(0, 1.1 * max(counts)))
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right")
    return figure


def shown(token: str) -> str:
    """A token without its quotation marks: `' you'` as `␣you`, and `b'\\xc2'` as `C2`."""
    if token.startswith("b"):
        return token[2:-1].replace("\\x", "").upper()
    return token[1:-1].replace(" ", "␣")


# Embeddings --------------------------------------------------------------------------------------


def embedding_figure(parts: dict[str, torch.Tensor], tokens: Sequence[str]) -> Figure:
    """Vectors as rows of colours, a panel a part; parts: title -> (tokens, emb_dim)."""
    figure, panels = new_figure(1, len(parts), width=12, height=4.4)
    most = max(float(part[:, :64].abs().quantile(0.99)) for part in parts.values())
    for panel, (title, part) in zip(panels, parts.items()):
        image = panel.imshow(part[:, :64], cmap="PuOr", vmin=-most, vmax=most, aspect="auto")
        panel.set_yticks(range(len(tokens)), [shown(token) for token in tokens], fontsize=8)
        panel.set(title=title, xlabel="entry of the vector (first 64)")
        panel.grid(visible=False)
    figure.colorbar(image, ax=panels, shrink=0.8, label="value")
    return figure


def cosines_figure(tables: dict[str, torch.Tensor], tokens: Sequence[str]) -> Figure:
    """How alike the tokens are, a panel a model; tables: title -> (tokens, tokens) cosines."""
    figure, panels = new_figure(1, len(tables), width=11, height=5)
    for panel, (title, table) in zip(panels, tables.items()):
        image = panel.imshow(table, cmap="PuOr", vmin=-0.6, vmax=0.6)
        names = [shown(token) for token in tokens]
        panel.set_xticks(range(len(tokens)), names, rotation=90, fontsize=8)
        panel.set_yticks(range(len(tokens)), names, fontsize=8)
        panel.set(title=title)
        panel.grid(visible=False)
    figure.colorbar(image, ax=panels, shrink=0.7, label="cosine (1 on the diagonal)", extend="max")
    return figure


# Attention ---------------------------------------------------------------------------------------


def attention_steps_figure(
    scores: torch.Tensor, masked: torch.Tensor, weights: torch.Tensor, tokens: Sequence[str]
) -> Figure:
    """Scores, the same with the future struck out, and the weights; (tokens, tokens) each."""
    figure, panels = new_figure(1, 3, width=13, height=4.9)
    low, high = float(scores.min()), float(scores.max())
    for panel, table, title in zip(panels, (scores, masked), ("scores", "the future struck out")):
        image = panel.imshow(table, cmap="cividis", vmin=low, vmax=high)
        panel.set(title=title)
        _name_tokens(panel, tokens)
    figure.colorbar(image, ax=panels[:2], location="bottom", shrink=0.5, label="score")
    # The square root shows small weights too; the colour bar tells the weights themselves.
    image = panels[2].imshow(weights.sqrt(), cmap="Blues", vmin=0, vmax=1)
    panels[2].set(title="weights")
    _name_tokens(panels[2], tokens)
    bar = figure.colorbar(image, ax=panels[2], location="bottom", label="weight (%)")
    bar.set_ticks([0, 0.1**0.5, 0.25**0.5, 0.5**0.5, 1], labels=["0", "10", "25", "50", "100"])
    panels[0].set_ylabel("token")
    for panel in panels:
        panel.set_xlabel("listens to")
    return figure


def heads_figure(tables: torch.Tensor, tokens: Sequence[str]) -> Figure:
    """Where every head looks, and three heads in full; (blocks, heads, tokens, tokens) weights."""
    blocks, heads, n, _ = tables.shape
    rows = tables[..., 1:, :]  # the first token has no choice
    shares = {
        "the first token": rows[..., 0].mean(-1),
        "itself": rows.diagonal(1, 2, 3).mean(-1),
        "the one before": rows[..., 1:, :].diagonal(1, 2, 3).mean(-1),
    }
    figure = new_figure(width=12, height=8.4)[0]
    figure.clear()
    upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1.35))
    panels = upper.subplots(1, len(shares), sharey=True)
    for panel, (title, share) in zip(panels, shares.items()):
        image = panel.imshow(100 * share.T, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        panel.set(title=f"looks at {title}", xlabel="block")
        panel.set(xticks=range(blocks), yticks=range(heads))
        panel.grid(visible=False)
    panels[0].set_ylabel("head")
    upper.colorbar(image, ax=panels, label="share of its weights (%)")
    chosen = [divmod(int(share.argmax()), heads) for share in shares.values()]
    for panel, (block, head) in zip(lower.subplots(1, len(chosen)), chosen):
        panel.imshow(tables[block, head].sqrt(), cmap="Blues", vmin=0, vmax=1)
        panel.set(title=f"block {block}, head {head}", xlabel="listens to")
        _name_tokens(panel, tokens)
    return figure


def _name_tokens(panel, tokens: Sequence[str]) -> None:
    names = [shown(token) for token in tokens]
    panel.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    panel.set_yticks(range(len(names)), names, fontsize=7)
    panel.grid(visible=False)


# The whole model ---------------------------------------------------------------------------------


def path_figure(sizes: list[list[float]], right: dict[str, list[float]]) -> Figure:
    """What each block adds to the path, and what the model would say if it stopped there.

    sizes: a block: length of the path, of what attention adds, of what feed-forward adds.
    right: place -> probability of the true next token after the embedding and each block.
    """
    figure, (left, panel) = new_figure(1, 2, width=11, height=3.8)
    blocks = range(len(sizes))
    names = ("the path before the block", "attention adds", "feed-forward adds")
    for values, name, colour, marker in zip(zip(*sizes), names, (GREY, BLUE, GREEN), "osD"):
        left.plot(blocks, values, f"{marker}-", color=colour, markersize=5, label=name)
    left.set(xlabel="block", ylabel="length of the vectors (mean)", ylim=(0, None))
    left.set(xticks=blocks, title="What a block adds")
    left.legend()
    for (name, values), colour, marker in zip(right.items(), (ORANGE, PINK), "o^"):
        percent = [100 * value for value in values]
        places = range(-1, len(values) - 1)
        panel.plot(places, percent, f"{marker}-", color=colour, markersize=5, label=f"after {name}")
    panel.set(xlabel="stopped after block (-1: the embedding)", title="If the model stopped early")
    panel.set(ylabel="true next token (%)", yscale="log", xticks=range(-1, len(sizes)))
    panel.legend()
    return figure


def parts_figure(counts: dict[str, dict[str, int]]) -> Figure:
    """The share of each part in each preset's parameters."""
    figure, axes = new_figure(width=9, height=3.6)
    left = [0.0] * len(counts)
    totals = [sum(parts.values()) for parts in counts.values()]
    for part, colour in zip(next(iter(counts.values())), (ORANGE, YELLOW, BLUE, GREEN, GREY)):
        shares = [100 * parts[part] / total for parts, total in zip(counts.values(), totals)]
        axes.barh(range(len(counts)), shares, 0.65, left, color=colour, label=part)
        left = [start + share for start, share in zip(left, shares)]
    names = [f"{name}: {total / 1e6:,.0f} M" for name, total in zip(counts, totals)]
    axes.set_yticks(range(len(counts)), names)
    axes.invert_yaxis()
    axes.set(xlabel="share of the parameters (%)", xlim=(0, 100))
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=5, fontsize=9)
    return figure


# Pretraining -------------------------------------------------------------------------------------


def learning_figure(
    curve: Sequence[float], checks: dict[int, tuple[float, float]], blind: float
) -> Figure:
    """The loss of every step; checks: step -> loss on other messages and on ours."""
    figure, axes = new_figure(width=8, height=3.8)
    axes.plot(range(len(curve)), curve, color=SKY, linewidth=1.6, label="training, every step")
    for number, (name, colour, marker) in enumerate(
        (("validation messages", BLUE, "o"), ("our message", RED, "s"))
    ):
        values = [pair[number] for pair in checks.values()]
        axes.plot(list(checks), values, f"{marker}-", color=colour, markersize=5, label=name)
    axes.axhline(blind, color="black", linestyle=":", linewidth=1.2, label="guessing blindly")
    axes.set(xlabel="optimizer step", ylabel="loss (nats a token)")
    axes.legend()
    return figure


def surprise_figure(surprises: dict[str, torch.Tensor], tokens: Sequence[str]) -> Figure:
    """What each token costs each model; surprises: model -> (tokens,) nats."""
    figure, axes = new_figure(width=11, height=3.8)
    looks = zip(surprises.items(), (GREY, ORANGE, BLUE))
    for number, ((name, values), colour) in enumerate(looks):
        places = [place + 0.28 * (number - 1) for place in range(len(tokens))]
        axes.bar(places, values, 0.27, color=colour, label=f"{name}: mean {values.mean():.2f}")
    axes.set_xticks(range(len(tokens)), [shown(token) for token in tokens], fontsize=9)
    axes.set(xlabel="token", ylabel="-ln p (nats)", ylim=(0, None))
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def temperature_figure(chances: dict[float, Sequence[float]], tokens: Sequence[str]) -> Figure:
    """The probabilities of the likeliest tokens, a group of bars a token."""
    figure, axes = new_figure(width=9, height=3.4)
    for number, ((heat, values), colour) in enumerate(zip(chances.items(), (BLUE, GREY, ORANGE))):
        places = [place + 0.28 * (number - 1) for place in range(len(tokens))]
        axes.bar(places, [100 * p for p in values], 0.27, color=colour, label=f"T = {heat:g}")
    axes.set_xticks(range(len(tokens)), [shown(token) for token in tokens])
    axes.set(xlabel="next token", ylabel="probability (%)")
    axes.grid(axis="x", visible=False)
    axes.legend()
    return figure


# Fine-tuning -------------------------------------------------------------------------------------


def race_figure(runs: dict[str, dict]) -> Figure:
    """Loss and the probability of one message after each step; a run has `loss` and `answer`."""
    figure, (left, right) = new_figure(1, 2, width=11, height=3.8)
    for (name, run), marker in zip(runs.items(), "os"):
        look = {"color": COLOURS[name], "linewidth": 2, "label": NAMES[name]}
        steps = range(1, len(run["loss"]) + 1)
        left.plot(steps, run["loss"], color=COLOURS[name], linewidth=0.8, alpha=0.4)
        left.plot(steps, smooth(run["loss"], 0.8), **look)
        percent = [100 * answer for answer in run["answer"]]
        right.plot(range(len(percent)), percent, f"{marker}-", markersize=3.5, **look)
    left.set(xlabel="optimizer step", ylabel="loss (nats a message)", ylim=(0, None))
    left.set_title("Practice, and its running mean")
    right.axhline(50, color="black", linestyle=":", linewidth=1)
    right.set(xlabel="optimizer steps taken", ylabel="P(spam) of our message (%)", ylim=(0, 102))
    right.set_title("A message that neither has seen")
    left.legend()
    right.legend(loc="lower right")
    return figure


def threshold_figure(
    curves: dict[str, list[tuple[float, float, float]]], thresholds: Sequence[float]
) -> Figure:
    """Precision, recall and F1 of each method against the threshold."""
    figure, panels = new_figure(1, len(curves), width=11, height=3.4)
    for panel, (name, points) in zip(panels, curves.items()):
        looks = zip(("precision", "recall", "F1"), zip(*points), (BLUE, ORANGE, "black"), "-:-")
        for label, values, colour, style in looks:
            percent = [100 * value for value in values]
            panel.plot(thresholds, percent, style, color=colour, linewidth=2, label=label)
        panel.set(xlabel="spam from this P(spam) on", ylim=(0, 102), title=NAMES[name])
    panels[0].set_ylabel("validation messages (%)")
    panels[0].legend(loc="lower left")
    return figure


# Drawing tokens ----------------------------------------------------------------------------------


def _draw_pieces(axes, row: float, parts: Sequence[bytes], size: float, height=0.72) -> None:
    """Tokens as boxes in a line, as wide as they have bytes; a byte of a character in hex."""
    at = 0
    for number, part in enumerate(parts):
        colour = (SKY, ORANGE)[number % 2]
        axes.barh(row, len(part), height, at, align="center", color=colour, edgecolor="white")
        try:
            text = part.decode().replace(" ", "␣")
        except UnicodeDecodeError:
            text = part.hex().upper()
        small = size - 3 if len(text) > len(part) else size
        axes.text(at + len(part) / 2, row, text, ha="center", va="center", fontsize=small)
        at += len(part)
    axes.set_xlim(0, max(axes.get_xlim()[1], at))


def _without_frame(axes) -> None:
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
