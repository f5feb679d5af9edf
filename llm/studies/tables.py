"""Results as tables: for a terminal, and as Markdown for README.md."""

from llm.figures.style import LONG_NAMES, NAMES
from llm.model.parameters import share
from llm.studies.summary import paired_difference

SCORES = ("accuracy", "f1", "roc_auc")
SCORES_OF_PAIRS = ("f1", "accuracy", "roc_auc")


def table(results: dict) -> str:
    """The comparison as text for a terminal, 100 columns wide."""
    rows = [("", "trainable", "saved", "peak memory", "time", "accuracy", "F1 (spam)", "AUC")]
    for method, summary in results["summary"].items():
        rows.append(
            (
                method,
                f"{summary['trainable_parameters']:,} ({share(summary['trainable_share'])})",
                megabytes(summary["saved_bytes"]),
                megabytes(summary["peak_memory_bytes_mean"]),
                f"{summary['train_seconds_mean']:.0f} s",
                *(percent(summary, f"test_{key}") for key in SCORES),
            )
        )
    for name, metrics in results["baselines"].items():
        rows.append((NAMES[name], "", "", "", "", *(spread(metrics, key) for key in SCORES)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines += ["", *(paired_lines(results) or [one_split(results)])]
    return "\n".join(line.rstrip() for line in lines)


def paired_lines(results: dict) -> list[str]:
    """The paired differences as text, a line each."""
    return [
        f"{name.replace('lora', 'LoRA', 1).replace(other, NAMES[other])}: "
        f"{interval(found, 'f1')} points of F1, {interval(found, 'accuracy')} of accuracy"
        for name, found in results.get("paired", {}).items()
        for other in [name.removeprefix("lora - ")]
    ]


def interval(found: dict, key: str) -> str:
    """A paired difference in points with its interval: +0.3 (-0.1 to +0.7)."""
    mean, low, high = (100 * found[f"{key}_{what}"] for what in ("mean", "low", "high"))
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def one_split(results: dict) -> str:
    """How far one split can mislead."""
    spam = round(results["data"]["test"] * results["data"].get("spam_share", 0.1))
    return (
        f"One split: of about {spam} positive test messages, one more or less right is "
        f"{50 / max(1, spam):.1f} points of F1. --splits 10 measures over ten."
    )


def megabytes(count: float) -> str:
    """Bytes for people, decimal units."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"


def spread(metrics: dict, key: str) -> str:
    """A baseline's mean in percent, ± its standard deviation over the splits where it has one."""
    if metrics[key] is None:
        return ""
    deviation = metrics.get(f"{key}_std")
    return f"{100 * metrics[key]:.1f}" + (f" ± {100 * deviation:.1f}" if deviation else "") + " %"


def percent(summary: dict, key: str) -> str:
    """Mean ± standard deviation of a measure in a method's summary, in percent."""
    if f"{key}_mean" not in summary:
        return ""
    mean, deviation = summary[f"{key}_mean"], summary[f"{key}_std"]
    spread = f" ± {100 * deviation:.1f}" if deviation is not None else ""
    return f"{100 * mean:.1f}{spread} %"


def results_table(results: dict, costs: dict) -> str:
    """The comparison as a Markdown table.

    Args:
        results: a results.json over several splits, for how good each way is.
        costs: a results.json of one split on a CPU, for what it takes.
    """
    rows = [
        "| | trained numbers | saved | peak memory | training | test accuracy | test F1 (spam) "
        "| everyday messages |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for method, summary in results["summary"].items():
        cost = costs["summary"][method]
        cells = [
            NAMES[method],
            f"{summary['trainable_parameters']:,} ({share(summary['trainable_share'])})",
            megabytes(summary["saved_bytes"]),
            megabytes(cost["peak_memory_bytes_mean"]),
            f"{cost['train_seconds_mean']:,.0f} s",
            *(percent(summary, key) for key in ("test_accuracy", "test_f1", "everyday_accuracy")),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    for name, metrics in results["baselines"].items():
        scores = [spread(metrics, key) for key in ("accuracy", "f1")]
        everyday = spread(metrics["everyday"], "accuracy")
        rows.append(f"| {LONG_NAMES[name]} | | | | | {' | '.join([*scores, everyday])} |")
    return "\n".join(rows)


def paired_table(results: dict) -> str:
    """The paired differences as a Markdown table."""
    rows = ["| points, over the splits | F1 | accuracy | ROC AUC |", "| --- | --: | --: | --: |"]
    for name, found in results["paired"].items():
        other = name.removeprefix("lora - ")
        cells = " | ".join(interval(found, key) for key in SCORES_OF_PAIRS)
        rows.append(f"| LoRA - {LONG_NAMES.get(other, NAMES[other])} | {cells} |")
    return "\n".join(rows)


def curve_table(curve: dict, key: str = "f1", digits: int = 0) -> str:
    """A measure against the number of training messages (a learning_curve.json), as Markdown.

    Args:
        key: a measure of the summary.
        digits: of the percentages after the point.
    """
    sizes = sorted({row["messages"] for row in curve["summary"]})
    found = {(row["method"], row["weights"], row["messages"]): row for row in curve["summary"]}
    baseline = "tfidf_logistic_regression"
    names = {
        ("lora", "pretrained"): "LoRA, pretrained base",
        ("full", "pretrained"): "full fine-tuning, pretrained base",
        ("lora", "random"): "LoRA, random base",
        ("full", "random"): "full fine-tuning, random base",
        (baseline, None): LONG_NAMES[baseline],
    }
    rows = ["| training messages | " + " | ".join(f"{size:,}" for size in sizes) + " |"]
    rows.append("| --- |" + " --: |" * len(sizes))
    for (method, weights), name in names.items():
        cells = [found[method, weights, size] for size in sizes]
        shown = " | ".join(
            f"{100 * cell[f'{key}_mean']:.{digits}f} ± {100 * cell[f'{key}_std']:.{digits}f}"
            for cell in cells
        )
        rows.append(f"| {name} | {shown} |")
    return "\n".join(rows)


def curve_differences(curve: dict) -> str:
    """What LoRA is ahead of full fine-tuning on the pretrained base, seed by seed, as Markdown."""
    values = {
        (p["method"], p["messages"], p["seed"]): p
        for p in curve["points"]
        if p["weights"] == "pretrained"
    }
    sizes = sorted({messages for _, messages, _ in values})
    rows = ["| LoRA - full, points | " + " | ".join(f"{size:,}" for size in sizes) + " |"]
    rows.append("| --- |" + " --: |" * len(sizes))
    for key, name in (("f1", "F1"), ("roc_auc", "ROC AUC")):
        cells = []
        for size in sizes:
            lora, full = (
                [values[method, size, seed][key] for seed in curve["seeds"]]
                for method in ("lora", "full")
            )
            difference = paired_difference(lora, full)
            cells.append(interval({f"{key}_{k}": x for k, x in difference.items()}, key))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)
