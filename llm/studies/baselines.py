"""What must be beaten: the majority class, and a linear model over counted words.

TF-IDF with logistic regression is the classic text classifier, quick and strong on this data. A
project that reports a language model's accuracy without it shows half of the picture.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from llm.data.splits import Splits
from llm.data.tsv import Message
from llm.inference.evaluation import best_threshold, classification_metrics, f1_at

STRENGTHS = (0.1, 0.3, 1, 3, 10, 30, 100, 300)  # of logistic regression, C in scikit-learn
MAJORITY, WORDS, CHARACTERS = (
    "majority",
    "tfidf_logistic_regression",
    "tfidf_logistic_regression_characters",
)


def baselines(splits: Splits, everyday: Sequence[Message] = ()) -> dict[str, dict]:
    """All baselines on one split.

    Args:
        everyday: more messages to measure on.

    Returns:
        {name: the metrics on the test messages; with `everyday`, on those under that name}
    """
    return {
        MAJORITY: measured(majority(splits.train), splits, everyday),
        WORDS: tfidf_logistic_regression(*splits, everyday=everyday),
        CHARACTERS: tfidf_logistic_regression(*splits, characters=True, everyday=everyday),
    }


def majority(train: Sequence[Message]) -> Callable[[Sequence[str]], torch.Tensor]:
    """Always answer the more frequent label of the training messages."""
    label = Counter(message.label for message in train).most_common(1)[0][0]
    return lambda texts: torch.full((len(texts),), float(label))


def tfidf_logistic_regression(
    train: Sequence[Message],
    validation: Sequence[Message],
    test: Sequence[Message],
    characters: bool = False,
    everyday: Sequence[Message] = (),
) -> dict:
    """Logistic regression on TF-IDF, measured. See `fit_tfidf`.

    Args:
        everyday: more messages to measure on.

    Returns:
        the metrics on `test`, `C` (chosen on `validation`), the validation metrics, and those of
        `everyday`.
    """
    fitted = fit_tfidf(train, validation, characters)
    return {
        **measured(fitted.predict, Splits(train, validation, test), everyday),
        "C": fitted.strength,
        "features": fitted.features,
    }


class Tfidf(NamedTuple):
    """A linear model over counted words."""

    predict: Callable[[Sequence[str]], torch.Tensor]  # texts to probabilities of label 1
    strength: float  # C in scikit-learn
    features: int


def fit_tfidf(
    train: Sequence[Message], validation: Sequence[Message], characters: bool = False
) -> Tfidf:
    """Logistic regression on TF-IDF of word uni- and bigrams.

    Args:
        validation: C is chosen by F1, then loss, on these.
        characters: add character 2- to 5-grams, which see through creative spelling: the strong
            baseline.
    """
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizers = [
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b|[^\w\s]")
    ]
    if characters:
        vectorizers.append(
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2)
        )
    texts, labels = [m.text for m in train], [m.label for m in train]
    counted = hstack([v.fit_transform(texts) for v in vectorizers]).tocsr()

    def predictor(model) -> Callable[[Sequence[str]], torch.Tensor]:
        def predict(texts: Sequence[str]) -> torch.Tensor:
            features = hstack([v.transform(texts) for v in vectorizers]).tocsr()
            return torch.from_numpy(model.predict_proba(features)[:, 1])

        return predict

    best = None
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=2000).fit(counted, labels)
        metrics = _metrics(predictor(model), validation)
        score = (metrics["f1"], -metrics["loss"])
        if best is None or score > best[0]:
            best = (score, strength, model)
    _, strength, model = best
    return Tfidf(predictor(model), strength, counted.shape[1])


def measured(
    predict: Callable[[Sequence[str]], torch.Tensor],
    splits: Splits,
    everyday: Sequence[Message] = (),
) -> dict:
    """The metrics of a baseline that gives texts their probability of label 1."""
    on_validation = predict([m.text for m in splits.validation])
    threshold = best_threshold([m.label for m in splits.validation], on_validation)
    on_test, labels = predict([m.text for m in splits.test]), [m.label for m in splits.test]
    return {
        **classification_metrics(labels, on_test),
        "f1_at_threshold": f1_at(labels, on_test, threshold),
        "threshold": threshold,
        "validation": _metrics(predict, splits.validation),
        **({"everyday": _metrics(predict, everyday)} if everyday else {}),
    }


def _metrics(predict, messages: Sequence[Message]) -> dict:
    return classification_metrics([m.label for m in messages], predict([m.text for m in messages]))
