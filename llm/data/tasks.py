"""What is to be told apart: spam from ham, questions from statements, or a task of your own."""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from llm.data.tsv import LABELS, Message, decode_entities

QUESTION_MARKS = re.compile("[?¿؟⁇⁈⁉？]")


class TaskDefinition(NamedTuple):
    """A classification task: names of labels 0 and 1, and how messages become its examples."""

    labels: tuple[str, str]
    prepare: Callable[[Iterable[Message]], list[Message]]
    read: Callable[[str], str] = str  # one text, as `prepare` would leave it


def without_question_marks(text: str) -> str:
    """The text with its question marks removed and white space tidied, so that no gap shows."""
    return re.sub(r"\s+(?=[.,!;:)])", "", " ".join(QUESTION_MARKS.sub(" ", text).split()))


def as_question_task(messages: Iterable[Message]) -> list[Message]:
    """Which messages asked something? Label 1 for a question mark, and the marks removed.

    A message that consists of question marks is dropped.
    """
    asked = []
    for message in messages:
        if text := without_question_marks(message.text):
            asked.append(Message(text, int(bool(QUESTION_MARKS.search(message.text)))))
    return asked


# A third task is one more line here: names, a function from messages to messages, and, where that
# changes the texts, the same for one text. Copies are removed after it, so that it cannot leak
# test messages either.
TASKS: dict[str, TaskDefinition] = {
    "spam": TaskDefinition(LABELS, list),
    "question": TaskDefinition(("statement", "question"), as_question_task, without_question_marks),
}

WRITING = "writing"  # the task that tells nothing apart: text in the manner of what was read


def read_as(task: str | None, message: str | Message) -> str:
    """The text of a message, as the messages of `task` were read in training.

    Args:
        task: what the model tells apart; a name that is not in `TASKS` leaves texts as they are.
        message: what somebody wrote, in which HTML entities are still to be decoded; or a Message
            of a file, in which `llm.data.tsv` has done that (once: `&amp;lt;` stands for `&lt;`).
    """
    text = message.text if isinstance(message, Message) else decode_entities(message).strip()
    return TASKS[task].read(text) if task in TASKS else text
