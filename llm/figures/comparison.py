"""Every figure of a comparison, in one style, with colours that colour-blind readers tell apart.

A function named `draw_…` draws into axes that it is given; one named `…_figure` returns a whole
figure. Nothing here computes a result: the numbers come from `results.json` and `history.json`.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llm.figures.style import COLOURS, INK, KINDS, NAMES, new_figure, save_figure, smooth
from llm.utils.files import read_json


def comparison_figures(results: dict, folder: Path) -> list[Path]:
    """All figures of a comparison, written beside its results.json."""
    figures = {
        "overview.png": overview_figure(results),
        "parameters.png": parameters_figure(results),
        "memory.png": memory_figure(results),
        "scores.png": scores_figure(results),
        "time.png": time_figure(results),
        **({"paired.png": paired_figure(results)} if results.get("paired") else {}),
        "loss.png": loss_figure(results, read_histories(results, folder)),
    }
    return [save_figure(figure, folder / name) for name, figure in figures.items()]


def read_histories(results: dict, folder: Path) -> dict[str, list[dict]]:
    """The loss curves of a comparison's runs, a list a method."""
    histories: dict[str, list[dict]] = {}
    for run in results["runs"]:
        name = f"{run['method']}-seed{run['seed']}"
        if len({other["split_seed"] for other in results["runs"]}) > 1:
            name += f"-split{run['split_seed']}"
        path = folder / "runs" / name / "history.json"
        histories.setdefault(run["method"], []).append(read_json(path))
    return histories


def overview_figure(results: dict, costs: dict | None = None) -> Figure:
    """Parameters, memory and F1 side by side: what LoRA saves, and what it costs.

    costs: a results.json to take the memory from, of another machine; None: the same.
    """
    figure, (left, middle, right) = new_figure(1, 3, width=11, height=3.6)
    draw_parameters(left, results)
    draw_memory(middle, _in_order_of(results, costs) if costs else results)
    if costs:
        middle.set_title(f"What a training step holds ({costs['device']})")
    draw_score(right, results, "f1", "F1 for spam (%)")
    _title(figure, results)
    return figure


def _in_order_of(results: dict, costs: dict) -> dict:
    """Costs with the methods in the order that the other panels have."""
    order = list(results["summary"])
    runs = sorted(costs["runs"], key=lambda run: order.index(run["method"]))
    return {**costs, "runs": runs, "summary": {name: costs["summary"][name] for name in order}}


def parameters_figure(results: dict) -> Figure:
    """Trainable parameters, on a logarithmic axis."""
    figure, axes = new_figure(width=6)
    draw_parameters(axes, results)
    _title(figure, results)
    return figure


def memory_figure(results: dict) -> Figure:
    """Memory of a training step by kind, and the process's measured peak."""
    figure, axes = new_figure(width=6.5)
    draw_memory(axes, results)
    _title(figure, results)
    return figure


def scores_figure(results: dict) -> Figure:
    """Test accuracy and F1 with their spread over the seeds, beside the baselines."""
    figure, (left, right) = new_figure(1, 2, width=9.5)
    draw_score(left, results, "accuracy", "test accuracy (%)")
    draw_score(right, results, "f1", "test F1 for spam (%)")
    _title(figure, results)
    return figure


def paired_figure(results: dict) -> Figure:
    """What LoRA is ahead of each other way, split by split, with the interval of the mean."""
    figure, panels = new_figure(1, 2, width=9.5, height=3.2)
    rows = list(results["paired"])
    for panel, (key, label) in zip(panels, {"accuracy": "accuracy", "f1": "F1 for spam"}.items()):
        for row, name in enumerate(rows):
            found = results["paired"][name]
            mean, low, high = (100 * found[f"{key}_{what}"] for what in ("mean", "low", "high"))
            panel.errorbar(
                mean,
                row,
                xerr=[[mean - low], [high - mean]],
                fmt="o",
                color=COLOURS["lora"],
                capsize=4,
                linewidth=1.8,
            )
        panel.axvline(0, color=INK, linewidth=1)
        panel.set(xlabel=f"LoRA ahead, points of {label}", ylim=(len(rows) - 0.5, -0.5))
        names = [NAMES[name.removeprefix("lora - ")] for name in rows] if panel is panels[0] else []
        panel.set_yticks(range(len(rows)), names or [""] * len(rows))
    splits = len({run["split_seed"] for run in results["runs"]})
    figure.suptitle(
        f"Paired over {splits} splits: mean difference and its 95 % interval", fontsize=10
    )
    return figure


def time_figure(results: dict) -> Figure:
    """Seconds of training a method."""
    figure, axes = new_figure(width=6)
    summary = results["summary"]
    values = [summary[method]["train_seconds_mean"] for method in summary]
    _bars(axes, list(summary), values, [f"{value:,.0f} s" for value in values])
    axes.set(ylabel="training time (s)", ylim=(0, 1.15 * max(values)))
    axes.set_title(f"Training, {results['settings']['epochs']} epochs")
    _title(figure, results)
    return figure


def loss_figure(results: dict, histories: dict[str, list[dict]]) -> Figure:
    """Training loss a step (smoothed) and validation loss an epoch, of every method."""
    figure, (left, right) = new_figure(1, 2, width=9.5)
    for method, runs in histories.items():
        for number, history in enumerate(runs):
            label = NAMES[method] if number == 0 else None
            colour = COLOURS[method]
            steps = [point["step"] for point in history["curve"]]
            losses = smooth([point["loss"] for point in history["curve"]])
            left.plot(steps, losses, color=colour, label=label, linewidth=1.2, alpha=0.9)
            steps = [point["step"] for point in history["evaluations"]]
            losses = [point["loss"] for point in history["evaluations"]]
            right.plot(steps, losses, "o-", color=colour, label=label, markersize=4, linewidth=1.2)
    left.set(xlabel="optimizer step", ylabel="loss (nats a message)", yscale="log")
    left.set_title("Training loss, running mean")
    right.set(xlabel="optimizer step", ylabel="loss (nats a message)", yscale="log")
    right.set_title("Validation loss, after each epoch")
    right.legend()
    _title(figure, results)
    return figure


def draw_parameters(axes: Axes, results: dict) -> None:
    """Dots of trainable parameters: on a logarithmic axis the length of a bar says nothing."""
    summary = results["summary"]
    values = [summary[method]["trainable_parameters"] for method in summary]
    axes.scatter(range(len(values)), values, 60, [COLOURS[method] for method in summary])
    for place, value in enumerate(values):
        shown = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center", "fontsize": 9}
        axes.annotate(f"{value:,}", (place, value), **shown)
    axes.set(yscale="log", ylabel="trainable parameters", ylim=(min(values) / 3, 5 * max(values)))
    axes.set_xlim(-0.8, len(values) - 0.2)
    _method_ticks(axes, list(summary))
    axes.set_title("What is trained")


def draw_memory(axes: Axes, results: dict) -> None:
    """Stacked bars of memory by kind, with the measured peak as a dash."""
    first = {run["method"]: run for run in reversed(results["runs"])}
    methods = list(results["summary"])
    bottoms = [0.0] * len(methods)
    for kind, colour in KINDS.items():
        heights = [first[method]["memory_bytes"][kind] / 1e6 for method in methods]
        axes.bar(
            range(len(methods)),
            heights,
            0.62,
            bottoms,
            color=colour,
            label=kind,
            edgecolor="white",
            linewidth=0.5,
        )
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights)]
    peaks = [results["summary"][method]["peak_memory_bytes_mean"] / 1e6 for method in methods]
    axes.plot(
        range(len(methods)),
        peaks,
        "_",
        color="black",
        markersize=22,
        markeredgewidth=1.6,
        label="measured peak",
    )
    axes.set(ylabel="memory of a step (MB)", ylim=(0, 1.55 * max(*bottoms, *peaks)))
    _method_ticks(axes, methods)
    axes.legend(loc="upper right", ncols=2, fontsize=8)
    axes.set_title("What a training step holds")


def draw_score(axes: Axes, results: dict, key: str, label: str) -> None:
    """Points with their spread over the seeds; the baselines as lines."""
    summary = results["summary"]
    values = []
    for position, method in enumerate(summary):
        mean = 100 * summary[method][f"test_{key}_mean"]
        deviation = 100 * (summary[method][f"test_{key}_std"] or 0)
        runs = [100 * run["test"][key] for run in results["runs"] if run["method"] == method]
        values += [*runs, mean - deviation, mean + deviation]
        axes.errorbar(
            position,
            mean,
            deviation,
            fmt="o",
            color=COLOURS[method],
            capsize=5,
            markersize=8,
            linewidth=1.8,
        )
        axes.plot([position + 0.18] * len(runs), runs, ".", color=COLOURS[method], alpha=0.6)
        axes.annotate(
            f"{mean:.1f}",
            (position, mean),
            (-11, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
    lines = {"tfidf_logistic_regression": ":", "tfidf_logistic_regression_characters": "--"}
    for name, style in lines.items():
        value = 100 * results["baselines"][name][key]
        values.append(value)
        axes.axhline(value, color=COLOURS["baseline"], linestyle=style, linewidth=1.4)
        beside = axes.get_yaxis_transform()  # x as a share of the width: 1 is the right edge
        text = NAMES[name].replace(" ", "\n", 1)
        axes.text(1.01, value, text, transform=beside, va="center", fontsize=8, color=INK)
    margin = 0.12 * (max(values) - min(values)) + 0.1
    axes.set(
        ylabel=label,
        ylim=(min(values) - margin, max(values) + margin),
        xlim=(-0.8, len(summary) - 0.4),
    )
    _method_ticks(axes, list(summary))
    axes.set_title("How good it gets")


def _bars(axes: Axes, methods: list[str], values: list[float], labels: list[str]) -> None:
    bars = axes.bar(range(len(methods)), values, 0.62, color=[COLOURS[m] for m in methods])
    axes.bar_label(bars, labels, padding=3, fontsize=9)
    _method_ticks(axes, methods)


def _method_ticks(axes: Axes, methods: list[str]) -> None:
    axes.set_xticks(range(len(methods)), [NAMES[method] for method in methods])
    axes.grid(axis="x", visible=False)


def _title(figure: Figure, results: dict) -> None:
    seeds = len({run["seed"] for run in results["runs"]})
    splits = len({run["split_seed"] for run in results["runs"]})
    spread = f"{splits} splits" if splits > 1 else f"{seeds} seed{'s' if seeds > 1 else ''}"
    figure.suptitle(
        f"{results['model']} ({results['weights']}), {results['data']['train']:,} training "
        f"messages, {spread}, {results['device']}",
        fontsize=9,
        color=INK,
    )
