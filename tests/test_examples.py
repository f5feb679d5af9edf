"""Every message that is shown with an answer is answered as a person would, by what is shipped.

Messages are collected where they stand: in the commands of README, help texts, chapters and pages,
and in the code of notebooks and chapters. A new one needs a person's answer in PERSON below.
"""

import argparse
import ast
import re
import shlex
from pathlib import Path

import nbformat
import pytest

from llm.cli.parser import build_parser
from llm.inference.adapters import Adapters
from llm.utils.paths import BUNDLED

ROOT = Path(__file__).parents[1]
# Spam? A question? None: half of each, or shown for the other task alone.
PERSON = {
    "WINNER!! Claim your prize, call 09061701461": (True, False),
    "WINNER!! You have won a free phone, can you call us on 09061701461 before tomorrow": (
        *(True, None),
    ),
    "see you at 8?": (False, None),
    "Free entry! Text WIN to 80086 to claim your prize": (True, False),
    "where are you now": (False, True),
    "Ok see you at home": (False, False),
    "what time will you be home": (False, True),
    "Can you call me when you get home": (False, None),
    "what time does the film start": (False, True),
    "I am on my way": (False, False),
    "Are you free tonight or should I call tomorrow": (False, True),
    "Are you coming?": (False, True),
}
# How code calls what it asks an adapter.
NAMES = ("message", "messages", "inbox", "OPENING", "EXAMPLES")
PAGES = [ROOT / "README.md", *(ROOT / "notebooks").glob("*.md"), *(ROOT / "data").glob("*.md")]


def commands_in(text: str) -> set[str]:
    """Messages in commands: of `predict`, and of the pipeline that an export is for."""
    found = set()
    for command in re.findall(r"predict --from (.+)", text.replace("\\\n", " ")):
        try:
            words = shlex.split(command, comments=True)[1:]
        except ValueError:  # a line of code that goes on below
            continue
        found |= {word.rstrip("`") for word in words if " " in word}
    return found | set(re.findall(r'^pipeline\(.*\)\("(.+)"\)$', text, re.MULTILINE))


def asked_in(code: str) -> set[str]:
    """Messages in code: literals under one of NAMES, and what `explain` is called with."""
    found = set()
    for node in ast.walk(ast.parse(re.sub(r"^%.*", "", code, flags=re.MULTILINE))):
        literals = []
        if isinstance(node, ast.Assign):
            named = any(isinstance(t, ast.Name) and t.id in NAMES for t in node.targets)
            literals = getattr(node.value, "elts", [node.value]) if named else []
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "explain":
            literals = node.args[1:]
        constants = (n.value for n in literals if isinstance(n, ast.Constant))
        found |= {value for value in constants if isinstance(value, str)}
    return found


def shown_in(text: str) -> set[tuple[str, str, bool]]:
    """(task, message, whether the answer was yes), from what a notebook has put out."""
    found = set()
    for task, percent, message in re.findall(
        r"^ *(spam|question) +([\d.]+) ?% {2,}(.+)$", text, re.M
    ):
        found.add((task, message, float(percent) > 50))
    for message, *percents in re.findall(r"^\| (.+?) \| (\d+) % \| (\d+) % \|$", text, re.M):
        for task, percent in zip(("spam", "question"), percents, strict=True):
            found.add((task, message, int(percent) > 50))
    return found


def notebooks():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        yield path, nbformat.read(path, as_version=4).cells


def everywhere() -> set[str]:
    """All messages that the repository shows with an answer."""
    found = set()
    for page in PAGES:
        found |= commands_in(page.read_text(encoding="utf-8"))
    subparsers = next(
        a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)
    )
    for parser in subparsers.choices.values():
        found |= commands_in(parser.epilog)
    for program in (*(ROOT / "chapters").glob("*.py"), *(ROOT / "notebooks").glob("*.py")):
        code = program.read_text(encoding="utf-8")
        found |= commands_in(code) | asked_in(code)
    for _, cells in notebooks():
        for cell in cells:
            found |= commands_in(cell.source) if cell.cell_type == "markdown" else set()
            found |= asked_in(cell.source) if cell.cell_type == "code" else set()
    return found


@pytest.fixture(scope="module")
def answers() -> dict[tuple[str, str], float]:
    """P(yes) of the shipped adapters for every message of PERSON, all in one batch."""
    asked = [(task, message) for message in PERSON for task in ("spam", "question")]
    adapters = Adapters.load(BUNDLED)
    said = adapters.classify_mixed([message for _, message in asked], [task for task, _ in asked])
    return dict(zip(asked, said[:, 1].tolist(), strict=True))


def test_a_person_has_answered_every_message_that_is_shown():
    found = everywhere()
    assert len(found) >= 8, "they are not where this test looks for them any more"
    assert found == set(PERSON), "a message is new, or is not shown any more"


def test_the_shipped_adapters_answer_as_a_person_does(answers):
    for message, person in PERSON.items():
        for task, yes in zip(("spam", "question"), person, strict=True):
            if yes is not None:
                assert (answers[task, message] > 0.5) == yes, (task, message)


def test_what_notebooks_have_put_out_is_what_a_person_says():
    shown = set()
    for _, cells in notebooks():
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        for output in outputs:
            text = output.get("text") or output.get("data", {}).get("text/markdown", "")
            shown |= shown_in(text)
    assert len(shown) >= 10
    for task, message, yes in shown:
        assert PERSON[message][task == "question"] in (yes, None), (task, message)
