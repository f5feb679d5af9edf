"""The tables of README.md that come from result files, so that text and results cannot differ.

`python -m llm.studies.report` writes them anew between their marks in README.md; a test compares.
"""

import re

from llm.studies.knob_tables import knob_table, rate_table
from llm.studies.tables import curve_differences, curve_table, paired_table, results_table
from llm.studies.variant_tables import variants_section
from llm.studies.voice_tables import VOICES, free_table, memorised_table, voices_table
from llm.utils.errors import InputError
from llm.utils.files import read_json, write_text
from llm.utils.paths import DATA, ROOT
from llm.utils.program import run

START, END = "<!-- results -->", "<!-- /results -->"
PAIRED_START, PAIRED_END = "<!-- paired -->", "<!-- /paired -->"
CURVE_START, CURVE_END = "<!-- learning-curve -->", "<!-- /learning-curve -->"
VOICES_START, VOICES_END = "<!-- voices -->", "<!-- /voices -->"
MEMORISED_START, MEMORISED_END = "<!-- memorised -->", "<!-- /memorised -->"
FREE_START, FREE_END = "<!-- free-classifier -->", "<!-- /free-classifier -->"
KNOBS_START, KNOBS_END = "<!-- knobs -->", "<!-- /knobs -->"
VARIANTS_START, VARIANTS_END = "<!-- variants -->", "<!-- /variants -->"


def with_table(text: str, table: str, marks: tuple[str, str] = (START, END)) -> str:
    """`text` with `table` between the two marks. Raises InputError where the marks are absent."""
    start, end = marks
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise InputError(f"README.md has no place for the table: put {start} and {end} into it")
    return pattern.sub(lambda _: f"{start}\n{table}\n{end}", text)


def up_to_date(text: str) -> str:
    """README.md's text with its tables as the committed results have them."""
    results = read_json(DATA / "results.json")
    text = with_table(text, results_table(results, read_json(DATA / "costs.json")))
    text = with_table(text, paired_table(results), (PAIRED_START, PAIRED_END))
    curve = read_json(DATA / "learning_curve.json")
    tables = [
        "F1 for spam, in percent, on the test messages:\n",
        curve_table(curve),
        "\nROC AUC, in percent:\n",
        curve_table(curve, "roc_auc", 1),
        "\nSeed by seed, on the pretrained base (95 % intervals of a bootstrap):\n",
        curve_differences(curve),
    ]
    text = with_table(text, "\n".join(tables), (CURVE_START, CURVE_END))
    voices, memorised = (
        {voice: read_json(DATA / f"{study}_{voice}.json") for voice in VOICES}
        for study in ("voices", "memorised")
    )
    text = with_table(text, voices_table(voices), (VOICES_START, VOICES_END))
    text = with_table(text, memorised_table(memorised), (MEMORISED_START, MEMORISED_END))
    free = free_table(read_json(DATA / "free_classifier.json"))
    text = with_table(text, free, (FREE_START, FREE_END))
    knobs = read_json(DATA / "knobs.json")
    tables = [knob_table(knobs), rate_table(knobs)]
    text = with_table(text, "\n\n".join(tables), (KNOBS_START, KNOBS_END))
    return with_table(text, variants_section(), (VARIANTS_START, VARIANTS_END))


def main() -> int:
    """Bring README.md up to date with the results in data/. Returns the exit status."""

    def update() -> None:
        path = ROOT / "README.md"
        if not path.exists():
            raise InputError("there is no README.md")
        write_text(path, up_to_date(path.read_text(encoding="utf-8")))

    return run(update)


if __name__ == "__main__":
    raise SystemExit(main())
