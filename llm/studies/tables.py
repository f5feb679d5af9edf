"""Results as tables: for a terminal, and as Markdown for README.md."""

from llm.figures.style import LONG_NAMES, NAMES


def table(results: dict) -> str:
    """The comparison as text for a terminal, 100 columns wide."""
    rows = [("", "trainable", "saved", "peak memory", "time", "accuracy", "F1 (spam)")]
    for method, summary in results["summary"].items():
        rows.append(
            (
                method,
                f"{summary['trainable_parameters']:,} ({summary['trainable_share']:.1%})",
                megabytes(summary["saved_bytes"]),
                megabytes(summary["peak_memory_bytes_mean"]),
                f"{summary['train_seconds_mean']:.0f} s",
                percent(summary, "test_accuracy"),
                percent(summary, "test_f1"),
            )
        )
    for name, measures in results["baselines"].items():
        scores = (f"{100 * measures[key]:.1f} %" for key in ("accuracy", "f1"))
        rows.append((NAMES[name], "", "", "", "", *scores))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def megabytes(count: float) -> str:
    """Bytes for people, decimal units."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"


def percent(summary: dict, key: str) -> str:
    """Mean ± standard deviation of a measure in a method's summary, in percent."""
    mean, deviation = summary[f"{key}_mean"], summary[f"{key}_std"]
    spread = f" ± {100 * deviation:.1f}" if deviation is not None else ""
    return f"{100 * mean:.1f}{spread} %"


def results_table(results: dict) -> str:
    """The comparison in `results` (a results.json) as a Markdown table."""
    rows = [
        "| | trained numbers | saved | peak memory | training | test accuracy | test F1 (spam) |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for method, summary in results["summary"].items():
        cells = [
            NAMES[method],
            f"{summary['trainable_parameters']:,} ({_share(summary['trainable_share'])})",
            megabytes(summary["saved_bytes"]),
            megabytes(summary["peak_memory_bytes_mean"]),
            f"{summary['train_seconds_mean']:,.0f} s",
            percent(summary, "test_accuracy"),
            percent(summary, "test_f1"),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    for name, measures in results["baselines"].items():
        scores = " | ".join(f"{100 * measures[key]:.1f} %" for key in ("accuracy", "f1"))
        rows.append(f"| {LONG_NAMES[name]} | | | | | {scores} |")
    return "\n".join(rows)


def curve_table(curve: dict) -> str:
    """F1 against the number of training messages (a learning_curve.json), as a Markdown table."""
    sizes = sorted({row["messages"] for row in curve["summary"]})
    f1 = {
        (row["method"], row["weights"], row["messages"]): (row["f1_mean"], row["f1_std"])
        for row in curve["summary"]
    }
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
        cells = [f1[method, weights, size] for size in sizes]
        shown = " | ".join(f"{100 * mean:.0f} ± {100 * spread:.0f}" for mean, spread in cells)
        rows.append(f"| {name} | {shown} |")
    return "\n".join(rows)


def _share(share: float) -> str:
    """As many digits as say something: 100 %, 2.5 %, 0.007 %."""
    return f"{100 * share:.{0 if share > 0.1 else 1 if share > 0.001 else 3}f} %"
