"""The tables of README.md that come from result files, so that text and results cannot differ.

`python -m llm.report` writes the table anew between the two marks in README.md; a test compares.
"""

import re
import sys
from pathlib import Path

from llm.compare import megabytes, percent
from llm.errors import InputError
from llm.files import read_json, write_text
from llm.plots import NAMES

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- results -->", "<!-- /results -->"
CURVE_START, CURVE_END = "<!-- learning-curve -->", "<!-- /learning-curve -->"
BASELINES = {
    "majority": "always ham",
    "tfidf_logistic_regression": "TF-IDF of words, logistic regression",
    "tfidf_logistic_regression_characters": "TF-IDF of words and characters",
}


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
        rows.append(f"| {BASELINES[name]} | | | | | {scores} |")
    return "\n".join(rows)


def curve_table(curve: dict) -> str:
    """F1 against the number of training messages (a learning_curve.json), as a Markdown table."""
    sizes = sorted({row["messages"] for row in curve["summary"]})
    f1 = {
        (row["method"], row["weights"], row["messages"]): (row["f1_mean"], row["f1_std"])
        for row in curve["summary"]
    }
    names = {
        ("lora", "pretrained"): "LoRA, pretrained base",
        ("full", "pretrained"): "full fine-tuning, pretrained base",
        ("lora", "random"): "LoRA, random base",
        ("full", "random"): "full fine-tuning, random base",
        ("tfidf_logistic_regression", None): "TF-IDF of words, logistic regression",
    }
    rows = ["| training messages | " + " | ".join(f"{size:,}" for size in sizes) + " |"]
    rows.append("| --- |" + " --: |" * len(sizes))
    for (method, weights), name in names.items():
        cells = [f1[method, weights, size] for size in sizes]
        shown = " | ".join(f"{100 * mean:.0f} ± {100 * spread:.0f}" for mean, spread in cells)
        rows.append(f"| {name} | {shown} |")
    return "\n".join(rows)


def with_table(text: str, table: str, marks: tuple[str, str] = (START, END)) -> str:
    """`text` with `table` between the two marks. Raises InputError where the marks are absent."""
    start, end = marks
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise InputError(f"README.md has no place for the table: put {start} and {end} into it")
    return pattern.sub(lambda _: f"{start}\n{table}\n{end}", text)


def _share(share: float) -> str:
    """As many digits as say something: 100 %, 2.5 %, 0.007 %."""
    return f"{100 * share:.{0 if share > 0.1 else 1 if share > 0.001 else 3}f} %"


def up_to_date(text: str) -> str:
    """README.md's text with both tables as the committed results have them."""
    text = with_table(text, results_table(read_json(ROOT / "data" / "results.json")))
    curve = read_json(ROOT / "data" / "learning_curve.json")
    return with_table(text, curve_table(curve), (CURVE_START, CURVE_END))


def main() -> None:
    """Bring README.md up to date with the results in data/."""
    path = ROOT / "README.md"
    if not path.exists():
        raise InputError("there is no README.md")
    write_text(path, up_to_date(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
