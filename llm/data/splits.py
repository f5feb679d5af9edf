"""Splitting messages into training, validation and test, so that no part repeats another.

Copies are removed before (`llm.data.messages`). What is left of a campaign are variants with some
words changed: of 104 spam test messages 18 would have one in training. They are kept together, in
one part (`llm.data.variants`).
"""

from collections import Counter
from functools import lru_cache
from random import Random
from typing import NamedTuple

from llm.data.messages import Collection, normalised
from llm.data.tsv import Message
from llm.data.variants import variant_groups
from llm.utils.errors import InputError


class Splits(NamedTuple):
    """Three parts that share no message."""

    train: list[Message]
    validation: list[Message]
    test: list[Message]


def split(
    collection: Collection,
    seed: int,
    balanced: bool = False,
    limit: int | None = None,
    variants_together: bool = True,
) -> Splits:
    """Training, validation and test messages: 70, 10 and 20 % of each class.

    Args:
        seed: of the split. The validation and the test messages depend on it and on
            `variants_together` alone.
        balanced: train on as many messages of the larger class as there are of the smaller, the
            others left out. Validation and test keep the natural share, because that is what a
            filter meets; the book (Raschka 2024) balances them as well, which flatters the
            precision.
        limit: at most this many training messages, of each class its share and at least one.
            With the same seed the smaller sets are parts of the larger ones.
        variants_together: messages that are variants of each other (`llm.data.variants`) all go
            to one part, so that no test message is a trained one with a word changed. False splits
            message by message, as if each stood for itself.

    Raises:
        InputError: fewer than three messages of a class (variants that stay together count as
            one), or a limit below 2.
    """
    if limit is not None and limit < 2:
        raise InputError(f"limit must be at least 2, one message of each class, not {limit}")
    parts = (_split_groups if variants_together else _split_messages)(collection, Random(seed))
    negative, positive = parts.train
    if balanced:
        size = min(len(negative), len(positive))
        negative, positive = negative[:size], positive[:size]
    total = len(negative) + len(positive)
    if limit is not None and limit < total:
        share = (2 * limit * len(positive) + total) // (2 * total)  # rounded
        share = min(max(share, 1), limit - 1)
        negative, positive = negative[: limit - share], positive[:share]
    # In the order of the file: the loop shuffles every epoch, with a seed of its own.
    chosen = (negative + positive, sum(parts.validation, []), sum(parts.test, []))
    return Splits(*([collection.messages[i] for i in sorted(places)] for places in chosen))


def _split_messages(collection: Collection, random: Random) -> Splits:
    """Places of the messages in each part, one list a class, in random order."""
    parts = Splits([], [], [])
    for label in range(len(collection.labels)):
        places = [i for i, message in enumerate(collection.messages) if message.label == label]
        _at_least_three(collection, label, len(places), "different")
        random.shuffle(places)
        validations, tests = part_sizes(len(places))
        parts.test.append(places[:tests])
        parts.validation.append(places[tests : tests + validations])
        parts.train.append(places[tests + validations :])
    return parts


def _split_groups(collection: Collection, random: Random) -> Splits:
    """Like `_split_messages`, but messages that are variants of each other go to one part.

    Whole groups in random order: each to the test if it has room for the group's messages of both
    classes, else to the validation, else to the training. A group that is too large for what is
    left is passed by and a later one fills the place: nearly all groups are single messages, so
    that the counts come out exactly.
    """
    labels = range(len(collection.labels))
    of_message = _groups(collection.messages)
    members: list[list[int]] = [[] for _ in range(max(of_message, default=-1) + 1)]
    for place, group in enumerate(of_message):
        members[group].append(place)
    counts = [Counter(collection.messages[i].label for i in group) for group in members]
    room: list[list[int]] = [[], []]  # in validation and test, for each class
    for label in labels:
        _at_least_three(
            collection,
            label,
            sum(label in count for count in counts),
            "different" if len(members) == len(of_message) else "unrelated",
        )
        for free, target in zip(room, part_sizes(sum(count[label] for count in counts))):
            free.append(target)

    order = list(range(len(members)))
    random.shuffle(order)
    chosen: tuple[list[int], list[int], list[int]] = ([], [], [])  # groups of each part
    for group in order:
        for free, part in ((room[1], chosen[2]), (room[0], chosen[1])):
            if all(counts[group][label] <= free[label] for label in labels):
                part.append(group)
                for label in labels:
                    free[label] -= counts[group][label]
                break
        else:
            chosen[0].append(group)
    _fill_empty(collection, chosen, counts)

    parts = Splits([], [], [])
    for groups, part in zip(chosen, parts):
        for label in labels:
            places = [
                i for g in groups for i in members[g] if collection.messages[i].label == label
            ]
            # Or a small training set, the first few, would be one campaign.
            random.shuffle(places)
            part.append(places)
    return parts


def _fill_empty(
    collection: Collection, chosen: tuple[list[int], ...], counts: list[Counter]
) -> None:
    """Give validation and test the smallest group that can be spared of a class that they lack.

    Takes a small file of large groups, none of which has room. No part loses its last group of a
    class.
    """
    for label, name in enumerate(collection.labels):
        for part in (chosen[2], chosen[1]):
            if any(label in counts[group] for group in part):
                continue
            spare = []
            for donor in chosen:
                held = Counter(k for group in donor for k in counts[group])  # groups of each class
                for group in donor:
                    if label in counts[group] and all(held[k] > 1 for k in counts[group]):
                        spare.append((len(counts[group]), counts[group].total(), group, donor))
            if not spare:
                raise InputError(
                    f"{collection.source}: too few {name} messages that are no variants of each "
                    "other for training, validation and test: add some"
                )
            *_, group, donor = min(spare, key=lambda found: found[:3])
            donor.remove(group)
            part.append(group)


@lru_cache(maxsize=2)
def _groups(messages: tuple[Message, ...]) -> tuple[int, ...]:
    """The group of variants of each message. Kept, for a study splits with many seeds."""
    return tuple(variant_groups([normalised(message.text) for message in messages]))


def part_sizes(total: int) -> tuple[int, int]:
    """How many messages of a class go to validation and to test: 10 and 20 %, but one each."""
    return max(1, round(total / 10)), max(1, round(total / 5))


def _at_least_three(collection: Collection, label: int, found: int, kind: str) -> None:
    """Refuse to split a class of fewer than three messages (or groups of variants)."""
    if found < 3:
        raise InputError(
            f"{collection.source}: only {found} {kind} {collection.labels[label]} messages; "
            "training, validation and test take one each at the least: add some"
        )


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
        f"{100 * collection.positive_share:.1f} % {collection.labels[1]}",
    ]
    for name, part in zip(Splits._fields, splits or ()):
        positive = sum(message.label for message in part)
        lines.append(f"{name:<10} {len(part):>6,}, {positive:,} {collection.labels[1]}")
    return "\n".join(lines)
