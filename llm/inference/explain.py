"""Which words moved the answer? Leave out one word at a time, and see how the answer changes.

Occlusion (Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", section
4.2) asks the model itself, and needs nothing but its answers. It has a blind spot: of two words
that say the same, each alone can be missed without harm, so neither seems to matter.
"""

import re
from dataclasses import dataclass

import torch

from llm.inference.adapters import Adapters

MOST_WORDS = 64  # that are left out in turn; a longer message's other words count as 0


@dataclass(frozen=True)
class Word:
    """A word of a message, and what it does to the answer."""

    text: str
    start: int  # where it begins in the message, in characters
    effect: float  # log-odds of label 1 with the word minus without it


@dataclass(frozen=True)
class Explanation:
    """An adapter's answer to a message."""

    label: str  # the name of label 1
    probability: float  # of label 1
    words: list[Word]


def explain(adapters: Adapters, message: str) -> dict[str, Explanation]:
    """The answer of every adapter that has one to a message, and the words that moved it.

    The message and its variants, for all adapters, go through the model as one mixed batch: with
    two adapters and ten words that is 2 * (1 + 10) messages in one forward pass.

    The effect is a difference of log-odds and not of probabilities: from 0.999 to 0.99 seems
    little, but the odds have fallen tenfold. Effects are in nats; 0.69 doubles the odds.
    """
    spans = [match.span() for match in re.finditer(r"\S+", message)][:MOST_WORDS]
    variants = [message] + [message[:start] + message[end:] for start, end in spans]
    names = [name for name in adapters if not adapters[name].record.writes]
    logits = adapters.mixed_logits(
        variants * len(names), [name for name in names for _ in variants]
    ).double()
    log_odds = (logits[:, 1] - logits[:, 0]).view(len(names), len(variants))
    answers = {}
    for name, (whole, *without) in zip(names, log_odds):
        words = [
            Word(message[start:end], start, float(whole - other))
            for (start, end), other in zip(spans, without)
        ]
        probability = float(torch.sigmoid(whole))
        answers[name] = Explanation(adapters[name].labels[1], probability, words)
    return answers
