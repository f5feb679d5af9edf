"""One reader of messages: what is evaluated or predicted is read as it was in training."""

import json

import pytest

from llm.cli.parser import main
from llm.data.tasks import read_as, without_question_marks
from llm.data.tokenizer import mini_tokenizer
from llm.data.tsv import Message, read_labelled
from llm.inference.reading import read_messages
from llm.utils.paths import BUNDLED

LABELLED = [
    ("question", "What time will you come home?"),
    ("question", "Are you there ?"),
    ("question", "did you get it??"),
    ("statement", "I am on my way"),
    ("statement", "See you at ten."),
    ("statement", "Ok, call me later"),
]


def evaluated(path, capsys) -> dict:
    arguments = ["evaluate", "--from", BUNDLED["question"], "--data", path, "--json", "--quiet"]
    assert main([str(argument) for argument in arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_questions_are_measured_alike_with_and_without_their_marks(tmp_path, capsys):
    """The mark is the answer, so the model was trained without; it must not be measured with it."""
    asked, plain = tmp_path / "asked.tsv", tmp_path / "plain.tsv"
    asked.write_text("".join(f"{label}\t{text}\n" for label, text in LABELLED))
    plain.write_text(
        "".join(f"{label}\t{without_question_marks(text)}\n" for label, text in LABELLED)
    )
    assert asked.read_text() != plain.read_text()
    metrics = evaluated(asked, capsys)
    assert metrics["messages"] == len(LABELLED)
    assert metrics == evaluated(plain, capsys)


@pytest.mark.parametrize("task", ["spam", "question"])
def test_a_message_of_a_file_and_the_same_message_typed_are_read_alike(task, tmp_path):
    """`&amp;lt;` stands for `&lt;`, and not for `<`: what a file's reader decoded stays."""
    typed = ["a &amp;lt; b?", "Fish &amp; chips?", "  spaces  "]
    (tmp_path / "x.tsv").write_text("".join(f"ham\t{text}\n" for text in typed))
    messages = read_labelled(tmp_path / "x.tsv")
    assert [read_as(task, m) for m in messages] == [read_as(task, text) for text in typed]
    assert read_as("spam", messages[0]) == "a &lt; b?"


def test_each_message_is_read_for_its_own_task_and_keeps_its_label():
    tokenizer = mini_tokenizer()
    messages = [Message("are you there?", 1), Message("are you there?", 0), "are you there?"]
    encoded = read_messages(messages, ["question", "spam", None], tokenizer, 256)
    assert encoded.labels == [1, 0, -1]
    assert [tokenizer.decode(ids) for ids in encoded.ids] == [
        "are you there",
        "are you there?",
        "are you there?",
    ]
