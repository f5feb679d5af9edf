"""What must be beaten: the majority class, and a linear model over counted words.

TF-IDF with logistic regression is the classic text classifier, quick and strong on this data. A
project that reports a language model's accuracy without it shows half of the picture.
"""

from collections import Counter
from collections.abc import Sequence

import torch

from llm.data.tsv import Message
from llm.inference.evaluation import classification_metrics

STRENGTHS = (0.1, 0.3, 1, 3, 10, 30, 100, 300)  # of logistic regression, C in scikit-learn


def majority(train: Sequence[Message], test: Sequence[Message]) -> dict:
    """Always answer the more frequent label of the training messages."""
    label = Counter(message.label for message in train).most_common(1)[0][0]
    answers = torch.full((len(test),), float(label))
    return classification_metrics([message.label for message in test], answers)


def tfidf_logistic_regression(
    train: Sequence[Message],
    validation: Sequence[Message],
    test: Sequence[Message],
    characters: bool = False,
) -> dict:
    """Logistic regression on TF-IDF of word uni- and bigrams.

    Args:
        characters: add character 2- to 5-grams, which see through creative spelling: the strong
            baseline.

    Returns:
        the measures on `test`, `C` (chosen by F1, then loss, on `validation`) and the validation
        measures.
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
    texts = [[m.text for m in part] for part in (train, validation, test)]
    labels = [[m.label for m in part] for part in (train, validation, test)]
    counted = [hstack([v.fit_transform(texts[0]) for v in vectorizers]).tocsr()]
    counted += [hstack([v.transform(part) for v in vectorizers]).tocsr() for part in texts[1:]]

    best = None
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=2000).fit(counted[0], labels[0])
        spam = torch.from_numpy(model.predict_proba(counted[1])[:, 1])
        measures = classification_metrics(labels[1], spam)
        score = (measures["f1"], -measures["loss"])
        if best is None or score > best[0]:
            best = (score, strength, model, measures)
    _, strength, model, validated = best
    spam = torch.from_numpy(model.predict_proba(counted[2])[:, 1])
    return {
        **classification_metrics(labels[2], spam),
        "C": strength,
        "features": counted[0].shape[1],
        "validation": validated,
    }
