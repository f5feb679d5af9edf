"""Which words moved the answer? Leave out some words at a time, and see how the answer changes.

Occlusion (Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", section
4.2) asks the model itself, and needs nothing but its answers. It has a blind spot: of two words
that say the same, each alone can be missed without harm, so neither seems to matter.

Every word that is left out makes another message to read. Of a short message each word is left out
by itself, all in one mixed batch. Of a long one neighbours are left out together, and those that
move the answer most are halved, again and again, as long as there is time; what moves it hardly
stays together.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from llm.inference.adapters import Adapters
from llm.inference.draft import Draft

# Tokens to send through the model; mini reads some thousands a second on two cores.
AT_ONCE = 1024  # in one batch, after which there is something new to see
COARSE = 4096  # to leave out everything once, in as many parts as that allows
ALL = 32_768  # for one message
LITTLE = 0.1  # nats: what changes less together is not taken apart

Span = tuple[int, int]  # of words: the first, and the one after the last


@dataclass(frozen=True)
class Part:
    """A word of a message, or neighbours that were left out together, and what they do to it."""

    text: str
    start: int  # where it begins in the message, in characters
    effect: float | None  # log-odds of label 1 with it minus without it; None: not known yet


@dataclass(frozen=True)
class Explanation:
    """An adapter's answer to a message."""

    label: str  # the name of label 1
    probability: float  # of label 1
    parts: list[Part]  # all that the model has read
    unread: str  # the end of the message, where it is longer than the model's context


def explain(adapters: Adapters, message: str) -> dict[str, Explanation]:
    """The answer of every adapter that has one to a message, and the words that moved it.

    Up to `AT_ONCE` tokens the message and its variants, for all adapters, are one mixed batch: with
    two adapters and ten words that is 2 * (1 + 10) messages in one forward pass.

    The effect is a difference of log-odds and not of probabilities: from 0.999 to 0.99 seems
    little, but the odds have fallen tenfold. Effects are in nats; 0.69 doubles the odds.
    """
    *_, finest = explanations(adapters, message)
    return finest


def explanations(
    adapters: Adapters, message: str, draft: Draft | None = None
) -> Iterator[dict[str, Explanation]]:
    """What `explain` returns, again and again and finer each time.

    Where there is more to do than one batch holds, the first has the answers alone.

    Args:
        draft: kept from one message to the next where somebody is typing: of a long message it has
            read the most part already.
    """
    occlusion = Occlusion(adapters, message)
    cost = max(1, occlusion.tokens)  # of one variant, for all adapters
    spans = split((0, len(occlusion.words)), max(1, COARSE // cost))
    at_once, left = max(1, AT_ONCE // cost), ALL // cost
    if len(spans) < at_once:
        occlusion.read(spans)
    else:
        occlusion.read_whole(draft or Draft(adapters))
    occlusion.spans = spans
    yield occlusion.answers()
    while left > 0:
        unknown = [span for span in spans if span not in occlusion.effects]
        if not unknown:
            strongest = sorted(
                (span for span in spans if span[1] - span[0] > 1),
                key=occlusion.strength,
                reverse=True,
            )[: max(1, at_once // 2)]
            strongest = [span for span in strongest if occlusion.strength(span) >= LITTLE]
            if not strongest:
                return
            unknown = [half for span in strongest for half in split(span, 2)]
            occlusion.spans = spans = sorted({*spans} - {*strongest} | {*unknown})
        occlusion.read(unknown[:at_once])
        left -= at_once
        yield occlusion.answers()


class Occlusion:
    """A message, what each adapter makes of it, and what it makes of it without some words."""

    def __init__(self, adapters: Adapters, message: str):
        self.adapters, self.message = adapters, message
        self.names = [name for name in adapters if not adapters[name].record.writes]
        self.length = read_length(adapters, message, self.names)
        shown = message[: self.length]
        self.words = [match.span() for match in re.finditer(r"\S+", shown)]
        encoded = adapters.encode([shown] * len(self.names), self.names)
        self.tokens = sum(map(len, encoded.ids))
        self.whole: torch.Tensor | None = None  # (names,) log-odds of the whole message
        self.effects: dict[Span, torch.Tensor] = {}  # (names,) each
        self.spans: list[Span] = []  # the parts that `answers` tells of

    def read_whole(self, draft: Draft) -> None:
        """The message as it is, with nothing left out."""
        logits = draft.logits(self.message, self.names).double()
        self.whole = logits[:, 1] - logits[:, 0]

    def read(self, spans: list[Span]) -> None:
        """Note what leaving out each of these changes; one mixed batch."""
        shown = self.message[: self.length]
        variants = [shown[: self.words[i][0]] + shown[self.words[j - 1][1] :] for i, j in spans]
        if self.whole is None:
            variants = [self.message, *variants]
        logits = self.adapters.mixed_logits(
            variants * len(self.names), [name for name in self.names for _ in variants]
        ).double()
        log_odds = (logits[:, 1] - logits[:, 0]).view(len(self.names), len(variants))
        if self.whole is None:
            self.whole, log_odds = log_odds[:, 0], log_odds[:, 1:]
        self.effects.update(zip(spans, (self.whole[:, None] - log_odds).T))

    def strength(self, span: Span) -> float:
        """The most that it changes for any adapter, in nats."""
        return float(self.effects[span].abs().max())

    def answers(self) -> dict[str, Explanation]:
        """As far as it is known."""
        return {name: self._answer(number, name) for number, name in enumerate(self.names)}

    def _answer(self, number: int, name: str) -> Explanation:
        parts = []
        for i, j in self.spans:
            start, end = self.words[i][0], self.words[j - 1][1]
            effect = self.effects.get((i, j))
            known = None if effect is None else float(effect[number])
            parts.append(Part(self.message[start:end], start, known))
        probability = float(torch.sigmoid(self.whole[number]))
        label = self.adapters[name].labels[1]
        return Explanation(label, probability, parts, self.message[self.length :].strip())


def split(span: Span, most: int) -> list[Span]:
    """Cut a span of words into so many parts of like length, or into its words; none if empty."""
    start, end = span
    count = min(most, end - start)
    edges = (
        [start + (end - start) * number // count for number in range(count + 1)] if count else []
    )
    return list(zip(edges, edges[1:]))


def read_length(adapters: Adapters, message: str, names: list[str]) -> int:
    """How many characters of a message fit into the context, of every task's way to read it."""

    def fits(length: int) -> bool:
        return not adapters.encode([message[:length]] * len(names), names).cut

    if fits(len(message)):
        return len(message)
    low, high = 0, len(message)  # `low` fits, `high` does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
