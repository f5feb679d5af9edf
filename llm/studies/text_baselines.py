"""What a voice must beat: counted n-grams of bytes, and a compressor.

Kneser-Ney smoothing is the best of the classic n-gram models (Chen and Goodman 1999, "An Empirical
Study of Smoothing Techniques for Language Modeling"; Kneser and Ney 1995). Counts and recursion
are nltk's. `xz` is asked how much longer the training text gets by the text behind it.
"""

import lzma
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from copy import copy
from functools import cached_property

import torch
from nltk.lm.api import LanguageModel
from nltk.lm.models import InterpolatedLanguageModel
from nltk.lm.smoothing import KneserNey

from llm.inference.log_probabilities import bits_per_byte_metrics

START, END = "<s>", "</s>"  # beside the 256 bytes; an end is predicted, a start never
SYMBOLS = 257
ORDERS, DISCOUNTS = (5, 6, 7, 8), (0.7, 0.85)  # to choose from, on validation


class Tables(KneserNey):
    """nltk's Kneser-Ney smoothing with what it counts anew for each score looked up instead.

    It leaves no symbol without a chance: what discounting frees of single bytes is shared out
    evenly, as the last step of the interpolation.
    """

    def unigram_score(self, word) -> float:
        """Over the `SYMBOLS`, each at least a little likely."""
        count, total = self._continuation_counts(word)
        shared = self.discount * len(self._continuations[()]) / SYMBOLS
        return (max(count - self.discount, 0.0) + shared) / total

    def alpha_gamma(self, word, context) -> tuple[float, float]:
        """As nltk's: the discounted share of a symbol, and what is left for shorter contexts."""
        highest = len(context) + 1 == self._order
        counts = self.counts[context] if highest else self._continuations[context]
        total, kinds = self._sums(context, counts, highest)
        return max(counts[word] - self.discount, 0.0) / total, self.discount * kinds / total

    def _continuation_counts(self, word, context=()) -> tuple[int, int]:
        counts = self._continuations[context]
        return counts[word], self._sums(context, counts)[0]

    def _sums(self, context, counts, highest=False) -> tuple[int, int]:
        if (context, highest) not in self._known:
            self._known[context, highest] = (sum(counts.values()), len(counts))
        return self._known[context, highest]

    @cached_property
    def _known(self) -> dict:
        return {}

    @cached_property
    def _continuations(self) -> dict[tuple, Counter]:
        """{context: {symbol: how many different symbols stand before context + symbol}}."""
        found: dict[tuple, Counter] = defaultdict(Counter)
        for order in range(2, self._order + 1):
            for prefix, counts in self.counts[order].items():
                found[prefix[1:]].update(word for word, count in counts.items() if count)
        return found


def kneser_ney_model(texts: Sequence[str], order: int, discount: float) -> LanguageModel:
    """An n-gram model of the bytes of texts, each between starts and an end."""
    model = InterpolatedLanguageModel(Tables, order, params={"discount": discount, "order": order})
    model.fit(
        (
            [tuple(row[at - length : at]) for at in ends for length in range(1, order + 1)]
            for row, ends in (_padded(text, order) for text in texts)
        ),
        vocabulary_text=[*map(chr, range(256)), END, START],
    )
    return model


def smoothed(model: LanguageModel, order: int, discount: float) -> LanguageModel:
    """The same counts with another discount, and an order that is no higher."""
    other = copy(model)
    other.estimator = copy(model.estimator)
    other.order = other.estimator._order = order
    other.estimator.discount = discount
    return other


def kneser_ney_log_probabilities(model: LanguageModel, texts: Sequence[str]) -> torch.Tensor:
    """log p of each text and its end, in nats: (texts,), float64."""
    found = []
    for text in texts:
        row, ends = _padded(text, model.order)
        scores = (
            model.unmasked_score(row[at - 1], tuple(row[at - model.order : at - 1])) for at in ends
        )
        found.append(sum(map(math.log, scores)))
    return torch.tensor(found, dtype=torch.float64)


def _padded(text: str, order: int) -> tuple[list[str], range]:
    """Starts, the bytes of a text as characters, and its end; where n-grams may end."""
    row = [START] * (order - 1) + [*text.encode("utf-8", "replace").decode("latin-1"), END]
    return row, range(order, len(row) + 1)


def kneser_ney_baseline(
    train: Sequence[str], validation: Sequence[str], unseen: dict[str, Sequence[str]]
) -> dict:
    """Order and discount by the validation texts; then the metrics of each unseen set of texts.

    Args:
        unseen: {name: texts}.

    Returns:
        {name: `bits_per_byte_metrics`}, and the `order` and the `discount` that were chosen.
    """
    counted = kneser_ney_model(train, max(ORDERS), max(DISCOUNTS))

    def log_p_of(texts: Sequence[str], choice: tuple[int, float]) -> torch.Tensor:
        return kneser_ney_log_probabilities(smoothed(counted, *choice), texts)

    grid = [(order, discount) for order in ORDERS for discount in DISCOUNTS]
    best = max(grid, key=lambda choice: log_p_of(validation, choice).sum())

    def measured(texts: Sequence[str]) -> dict:
        log_p = log_p_of(texts, best)
        return bits_per_byte_metrics(
            log_p, [len(text.encode("utf-8", "replace")) for text in texts]
        )

    found = {name: measured(texts) for name, texts in unseen.items()}
    return {**found, "order": best[0], "discount": best[1]}


def bytes_of(text: str) -> int:
    """A text's length in UTF-8."""
    return len(text.encode("utf-8", "replace"))


def xz_baseline(train: Sequence[str], unseen: dict[str, Sequence[str]]) -> dict:
    """Bits a byte that `xz -9` adds to the training texts for each set of unseen ones."""

    def compressed(texts: Sequence[str]) -> int:
        text = "\n".join(texts).encode("utf-8", "replace")
        return len(lzma.compress(text, lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME))

    before, found = compressed(train), {}
    for name, texts in unseen.items():
        n_bytes = sum(map(bytes_of, texts))
        bits = 8 * (compressed([*train, *texts]) - before)
        found[name] = {
            "bits_per_byte": bits / n_bytes,
            "documents": len(texts),
            "bytes": n_bytes,
        }
    return found
