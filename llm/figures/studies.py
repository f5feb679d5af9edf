"""The figures of what is recorded in `data/`: pretraining, learning curves, rates, memory."""

import math

from matplotlib.figure import Figure

from llm.figures.style import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    INK,
    KINDS,
    LONG_NAMES,
    NAMES,
    RED,
    new_figure,
    smooth,
)

GIB = 1 << 30


def learning_curve_figure(result: dict) -> Figure:
    """Chapter 6: F1 and the area under the curve against the number of training messages.

    result: as `llm.studies.learning_curve.learning_curve` returns it.
    """
    figure, panels = new_figure(1, 2, width=11.5, height=4.4)
    baseline = "tfidf_logistic_regression"
    styles = {
        ("full", "pretrained"): (RED, "o-", "full, pretrained"),
        ("lora", "pretrained"): (GREEN, "s-", "LoRA, pretrained"),
        ("full", "random"): (RED, "o:", "full, random weights"),
        ("lora", "random"): (GREEN, "s:", "LoRA, random weights"),
        (baseline, None): (INK, "d--", LONG_NAMES[baseline]),
    }
    sizes = sorted({row["messages"] for row in result["summary"]})
    labels = {"f1": "F1 for spam, test (%)", "roc_auc": "ROC AUC, test (%)"}
    for panel, (key, label) in zip(panels, labels.items()):
        for number, ((method, weights), (colour, style, name)) in enumerate(styles.items()):
            rows = [
                row
                for row in result["summary"]
                if (row["method"], row["weights"]) == (method, weights)
            ]
            if not rows:
                continue
            rows.sort(key=lambda row: row["messages"])
            shift = 1 + 0.025 * (number - 2)  # so that bars of one size stand side by side
            panel.errorbar(
                [row["messages"] * shift for row in rows],
                [100 * row[f"{key}_mean"] for row in rows],
                [100 * (row[f"{key}_std"] or 0) for row in rows],
                fmt=style,
                color=colour,
                label=name,
                capsize=2.5,
                markersize=5,
                linewidth=1.5,
            )
        panel.set(xscale="log", xlabel="training messages", ylabel=label)
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
        panel.minorticks_off()
    panels[1].legend(loc="lower right", fontsize=9)
    seeds, fewer = (
        sorted(
            {row["seeds"] for row in result["summary"] if (row["weights"] == "random") == random}
        )
        for random in (False, True)
    )
    title = f"{result['model']}, mean and standard deviation of {seeds[-1]} seeds"
    if fewer and fewer[-1] < seeds[-1]:
        title += f" (random weights: {' or '.join(map(str, fewer))})"
    figure.suptitle(title, fontsize=9)
    return figure


def search_figure(result: dict) -> Figure:
    """Chapter 8: validation F1 against the learning rate, a method a line.

    A rate far too high would press all others together, so the axis ends below the rings, and what
    lies lower is said in words.

    result: as `llm.studies.learning_rates.search_learning_rates` returns it.
    """
    figure, axes = new_figure(width=7.5, height=4)
    rings, every = {}, []
    for method, found in result["methods"].items():
        rates = [row["learning_rate"] for row in found["grid"]]
        means = [100 * row["validation_f1_mean"] for row in found["grid"]]
        spread = [100 * (row["validation_f1_std"] or 0) for row in found["grid"]]
        colour = COLOURS[method]
        axes.errorbar(rates, means, spread, fmt="o-", color=colour, capsize=3, label=NAMES[method])
        rings[method] = (found["chosen"], means[rates.index(found["chosen"])])
        axes.plot(*rings[method], "o", markersize=13, markerfacecolor="none", color=colour)
        every += [(rate, mean, colour) for rate, mean in zip(rates, means)]
    floor = min(f1 for _, f1 in rings.values()) - 6
    for rate, mean, colour in every:
        if mean < floor:
            text, style = f"{mean:.0f} % at {rate:g}", {"color": colour, "fontsize": 9}
            axes.annotate(text, (rate, floor), (5, 4), textcoords="offset points", **style)
    if min(mean for _, mean, _ in every) < floor:
        axes.set_ylim(bottom=floor)
    axes.set(xscale="log", xlabel="highest learning rate", ylabel="validation F1 for spam (%)")
    axes.set_title(f"Highest mean (ringed) on validation, {len(result['seeds'])} seeds")
    axes.legend(loc="lower left")
    return figure


def pretraining_figure(log: dict) -> Figure:
    """Training and validation loss of a pretraining run, both in bits per byte.

    The training loss is counted in nats a token; so many tokens a byte, and ln 2 nats a bit.

    The first steps, far above all others, are cut off.

    log: as `llm.training.pretraining.pretrain` returns it.
    """
    figure, axes = new_figure(width=7)
    tokens_a_step = log["tokens_seen"] / log["curve"][-1]["step"] / 1e6
    bits_per_byte = log["tokens_per_byte"] / math.log(2)  # of a loss of one nat a token
    axes.plot(
        [point["step"] * tokens_a_step for point in log["curve"]],
        [point["loss"] * bits_per_byte for point in log["curve"]],
        color=BLUE,
        linewidth=0.9,
        label="training, single batches",
    )
    evaluations = [point["bits_per_byte"] for point in log["evaluations"]]
    axes.plot(
        [point["step"] * tokens_a_step for point in log["evaluations"]],
        evaluations,
        "o-",
        color=RED,
        markersize=5,
        label="validation",
    )
    axes.annotate(
        f"{evaluations[-1]:.3f}",
        (tokens_a_step * log["evaluations"][-1]["step"], evaluations[-1]),
        (0, 7),
        textcoords="offset points",
        ha="center",
        color=RED,
    )
    axes.set(xlabel="tokens seen (millions)", ylabel="bits per byte")
    axes.set_ylim(top=1.5 * evaluations[0])
    axes.legend(loc="upper right", frameon=True, framealpha=1, edgecolor="none")
    axes.set_title("Pretraining: guessing the next token")
    return figure


def memory_growth_figure(results: dict, titles: tuple[str, str, str]) -> Figure:
    """Memory of a step against rank, batch and depth: stacked for LoRA, a line for full.

    Args:
        results: rows by "lora by rank", "lora by batch_size", "full by batch_size" and so on. A
            row has the quantity, an account as `llm.training.memory.memory_account` returns it, and
            on a GPU "measured", the allocator's peak; all in bytes.
        titles: of the three axes.
    """
    figure, panels = new_figure(columns=3, width=11, height=3.6)
    for axes, quantity, title in zip(panels, ("rank", "batch_size", "layers"), titles):
        rows = results[f"lora by {quantity}"]
        x = [str(row[quantity]) for row in rows]
        bottom = [0.0] * len(rows)
        for kind, colour in KINDS.items():
            heights = [row[kind] / GIB for row in rows]
            axes.bar(x, heights, 0.6, bottom, color=colour, label=f"{NAMES['lora']}: {kind}")
            bottom = [low + height for low, height in zip(bottom, heights)]
        if "measured" in rows[0]:
            peaks = [row["measured"] / GIB for row in rows]
            axes.plot(x, peaks, "D", color="black", markersize=5, label="LoRA: measured peak")
        if full := results.get(f"full by {quantity}"):
            counted = [row.get("measured", sum(row[kind] for kind in KINDS)) / GIB for row in full]
            label = "full: measured peak" if "measured" in full[0] else "full: all four"
            axes.plot(x, counted, "o-", color=RED, label=label)
        axes.set_xlabel(title)
        axes.grid(False, axis="x")
    panels[0].set_ylabel("Memory of a step (GiB)")
    panels[1].legend(fontsize=8)
    return figure


def finetuning_figure(histories: dict[str, dict], records: dict[str, dict]) -> Figure:
    """Chapter 8: the loss of each method, and what a step of it holds in memory.

    histories, records: by method, as `llm.training.finetuning.finetune` leaves and returns them.
    """
    figure, (left, right) = new_figure(1, 2, width=10.5, height=4)
    for method, history in histories.items():
        steps = [point["step"] for point in history["curve"]]
        losses = smooth([point["loss"] for point in history["curve"]], 0.7)
        name, colour = NAMES[method], COLOURS[method]
        left.plot(steps, losses, color=colour, linewidth=1.6, label=f"{name}, training")
        steps = [point["step"] for point in history["evaluations"]]
        losses = [point["loss"] for point in history["evaluations"]]
        left.plot(steps, losses, "o", color=colour, label=f"{name}, validation")
    left.set(xlabel="optimizer step", ylabel="loss (nats a message)", ylim=(0, None))
    left.set_title("Training loss (running mean) and validation")
    left.legend()
    bottoms = [0.0] * len(records)
    names = [NAMES[method] for method in records]
    for kind, colour in KINDS.items():
        heights = [record["memory_bytes"][kind] / 1e6 for record in records.values()]
        right.bar(names, heights, 0.55, bottoms, color=colour, edgecolor="white", label=kind)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights)]
    right.set(ylabel="memory of a step (MB)", ylim=(0, 1.35 * max(bottoms)))
    right.set_title("What a training step holds")
    right.grid(axis="x", visible=False)
    right.legend(ncols=2, loc="upper right", fontsize=9)
    return figure


def measured_storage_figure(entries: list[dict]) -> Figure:
    """What tasks take on disk, measured; entries: as `llm.studies.storage.storage` returns them."""
    figure, axes = new_figure(width=6.5, height=3.4)
    places = range(len(entries))
    parts = {
        name: [entry[name] / 1e6 for entry in entries] for name in entries[0] if name != "tasks"
    }
    adapters = [all_ - base for all_, base in zip(parts["adapter_bytes"], parts["base_bytes"])]
    left, right = [x - 0.2 for x in places], [x + 0.2 for x in places]
    bars = axes.bar(left, parts["full_bytes"], 0.36, color=RED, label="a full model a task")
    axes.bar_label(bars, fmt="%.1f", fontsize=9)
    axes.bar(right, parts["base_bytes"], 0.36, color=GREY, label="the base, once")
    bars = axes.bar(right, adapters, 0.36, parts["base_bytes"], color=GREEN, label="adapters")
    axes.bar_label(bars, [f"{size:.1f}" for size in parts["adapter_bytes"]], fontsize=9)
    axes.set_xticks(places, [" + ".join(entry["tasks"]) for entry in entries])
    axes.set(ylabel="on disk (MB)", xlabel="tasks", ylim=(0, 1.12 * max(parts["full_bytes"])))
    axes.grid(axis="x", visible=False)
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, ncols=3, loc="outside upper center", fontsize=9)
    return figure


def ladder_figure(result: dict) -> Figure:
    """What each step of the recipe brings, for LoRA and full fine-tuning.

    result: as `llm.studies.ladder.ladder` returns it.
    """
    figure, (left, right) = new_figure(1, 2, width=11, height=4)
    rungs = list(dict.fromkeys(row["rung"] for row in result["rows"]))
    for shift, method, marker in ((-0.12, "lora", "s"), (0.12, "full", "o")):
        rows = [row for row in result["rows"] if row["method"] == method]
        style = {"color": COLOURS[method], "label": NAMES[method], "capsize": 3, "linewidth": 1.4}
        left.errorbar(
            [number + shift for number in range(len(rows))],
            [100 * row["test_f1_mean"] for row in rows],
            [100 * (row["test_f1_std"] or 0) for row in rows],
            fmt=f"{marker}-",
            **style,
        )
        steps = [row["paired"]["test_f1"] for row in rows[1:]]
        means = [100 * step["mean"] for step in steps]
        ends = [
            [mean - 100 * step["low"] for mean, step in zip(means, steps)],
            [100 * step["high"] - mean for mean, step in zip(means, steps)],
        ]
        right.errorbar(
            [number + shift for number in range(1, len(rows))], means, ends, fmt=marker, **style
        )
    labels = ["plain", "+ last\nepoch", "+ mean of\nthe tokens", "+ language-\nmodel loss"]
    labels = [*labels, "+ BPE-\ndropout"][: len(rungs)]
    for panel in (left, right):
        panel.set_xticks(range(len(rungs)), labels)
        panel.tick_params(axis="x", labelsize=9)
        panel.grid(axis="x", visible=False)
    left.set(ylabel="F1 for spam, test (%)")
    left.set_title(f"Mean and deviation, {len(result['splits'])} splits, each step at its own rate")
    left.legend(loc="lower right")
    right.axhline(0, color=INK, linewidth=1)
    right.set(ylabel="points of F1 over the step before", xlim=(0.5, len(rungs) - 0.5))
    right.set_title("Paired difference and its 95 % interval")
    return figure
