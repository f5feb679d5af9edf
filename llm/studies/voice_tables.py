"""What the studies of voices found, as Markdown tables for README.md."""

import statistics
from collections.abc import Sequence

from llm.figures.style import LONG_NAMES
from llm.studies.voice_summary import BASELINES, way_label

VOICES = ("ham", "spam")
HEAD = {"voices": "two voices, Bayes' rule", "lora": "LoRA with a head"}


def voices_table(found: dict[str, dict]) -> str:
    """Bits a byte of unseen messages and of English for each way, and how far it is behind full.

    Args:
        found: {"ham": a comparison as `llm.studies.voices` writes it, "spam": another}.
    """
    lines = [
        "| bits a byte of |" + "".join(f" unseen {v} | English | behind full |" for v in VOICES)
    ]
    lines[0] += " trained numbers |"
    lines.append("| --- |" + " --: |" * (3 * len(VOICES) + 1))
    for way in found["ham"]["summary"]:
        cells = []
        for voice in VOICES:
            summary = found[voice]["summary"][way]
            cells += [_spread(summary, "test"), _spread(summary, "english")]
            cells.append(_behind(found[voice]["paired"].get(f"{way} - full")))
        numbers = f"{found['ham']['summary'][way]['trainable_parameters']:,}"
        lines.append(f"| {way_label(way)} | " + " | ".join(cells) + f" | {numbers} |")
    for name, label in BASELINES.items():
        cells = []
        for voice in VOICES:
            measured = found[voice]["baselines"][name]
            cells += [f"{measured[text]['bits_per_byte']:.3f}" for text in ("test", "english")]
            cells.append("")
        lines.append(f"| {label} | " + " | ".join(cells) + " | |")
    return "\n".join(lines)


def memorised_table(found: dict[str, dict]) -> str:
    """How many messages that a voice writes repeat ten tokens in a row, in percent.

    Args:
        found: {"ham": what `llm.studies.memorised` writes, "spam": another}.
    """
    lines = ["| messages that repeat |" + "".join(f" {v}: training | unseen |" for v in VOICES)]
    lines[0] += " spam: telephone numbers |"
    lines.append("| --- |" + " --: |" * (2 * len(VOICES) + 1))
    for way in dict.fromkeys(row["way"] for row in found["ham"]["rows"]):
        cells = []
        for voice in VOICES:
            rows = [row for row in found[voice]["rows"] if row["way"] == way]
            cells.append(_percent([row["train_part_share"] for row in rows]))
            cells.append(_percent([row["unseen"]["share"] for row in rows]))
        numbers = [row["train_numbers"] for row in found["spam"]["rows"] if row["way"] == way]
        cells.append(f"{statistics.fmean(numbers):.1f}")
        label = BASELINES.get(way) or way_label(way)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def free_table(found: dict) -> str:
    """F1 at one half, F1 at the threshold chosen on validation and ROC AUC, by training messages.

    Args:
        found: what `llm.studies.free_classifier` writes.
    """
    sizes = sorted({row["messages"] for row in found["summary"]})
    lines = ["| F1, F1 at a chosen threshold, ROC AUC |" + "".join(f" {n:,} |" for n in sizes)]
    lines.append("| --- |" + " --: |" * len(sizes))
    for way in dict.fromkeys(row["way"] for row in found["summary"]):
        mine = {row["messages"]: row for row in found["summary"] if row["way"] == way}
        cells = [
            ", ".join(
                f"{100 * mine[size][f'{key}_mean']:.1f} ± {100 * mine[size][f'{key}_std']:.1f}"
                for key in ("f1", "f1_at_threshold", "roc_auc")
            )
            for size in sizes
        ]
        lines.append(f"| {HEAD.get(way) or LONG_NAMES[way]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(summary: dict, text: str) -> str:
    mean, deviation = (summary[f"{text}_bits_per_byte_{what}"] for what in ("mean", "std"))
    return f"{mean:.3f} ± {deviation:.3f}"


def _behind(paired: dict | None) -> str:
    if paired is None:
        return ""
    low, high = (paired[f"bits_per_byte_{what}"] for what in ("low", "high"))
    return f"{100 * paired['share']:.1f} % ({low:.3f} to {high:.3f})"


def _percent(shares: Sequence[float]) -> str:
    return f"{100 * statistics.fmean(shares):.2f} %"
