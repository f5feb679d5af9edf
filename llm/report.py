"""The tables of README.md that come from result files, so that text and results cannot differ.

`python -m llm.report` writes the table anew between the two marks in README.md; a test compares.
"""

import re
import sys
from pathlib import Path

from llm.compare import megabytes
from llm.errors import InputError
from llm.files import read_json, write_text
from llm.plots import NAMES

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- results -->", "<!-- /results -->"
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
            _percent(summary, "test_accuracy"),
            _percent(summary, "test_f1"),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    for name, measures in results["baselines"].items():
        scores = " | ".join(f"{100 * measures[key]:.1f} %" for key in ("accuracy", "f1"))
        rows.append(f"| {BASELINES[name]} | | | | | {scores} |")
    return "\n".join(rows)


def with_table(text: str, table: str) -> str:
    """`text` with `table` between the two marks. Raises InputError where the marks are absent."""
    pattern = re.compile(re.escape(START) + ".*?" + re.escape(END), re.DOTALL)
    if not pattern.search(text):
        raise InputError(f"README.md has no place for the table: put {START} and {END} into it")
    return pattern.sub(lambda _: f"{START}\n{table}\n{END}", text)


def _share(share: float) -> str:
    """As many digits as say something: 100 %, 2.5 %, 0.007 %."""
    return f"{100 * share:.{0 if share > 0.1 else 1 if share > 0.001 else 3}f} %"


def _percent(summary: dict, key: str) -> str:
    mean, deviation = summary[f"{key}_mean"], summary[f"{key}_std"]
    spread = f" ± {100 * deviation:.1f}" if deviation is not None else ""
    return f"{100 * mean:.1f}{spread} %"


def main() -> None:
    """Bring README.md up to date with data/results.json."""
    path = ROOT / "README.md"
    if not path.exists():
        raise InputError("there is no README.md")
    table = results_table(read_json(ROOT / "data" / "results.json"))
    write_text(path, with_table(path.read_text(encoding="utf-8"), table))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
