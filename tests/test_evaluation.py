import math

import pytest
import torch

from llm.data.batching import Encoded
from llm.data.tsv import Message
from llm.inference.evaluation import classification_metrics, classify
from llm.model.classifier import GPTClassifier
from llm.studies.baselines import STRENGTHS, majority, tfidf_logistic_regression


def test_metrics_of_a_case_counted_by_hand():
    labels = [1, 1, 1, 0, 0, 0, 0, 0]
    positive = torch.tensor([0.9, 0.8, 0.3, 0.7, 0.1, 0.2, 0.4, 0.05])  # 2 hits, 1 miss, 1 alarm
    metrics = classification_metrics(labels, positive)
    assert metrics["accuracy"] == 6 / 8
    assert metrics["precision"] == pytest.approx(2 / 3)
    assert metrics["recall"] == pytest.approx(2 / 3)
    assert metrics["f1"] == pytest.approx(2 / 3)
    assert metrics["balanced_accuracy"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert metrics["roc_auc"] == pytest.approx(13 / 15)  # pairs in the right order, of 15
    likelihoods = [0.9, 0.8, 0.3, 0.3, 0.9, 0.8, 0.6, 0.95]
    loss = -sum(map(math.log, likelihoods)) / 8
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)


def test_metrics_of_one_class_alone_have_no_roc_auc_and_are_strict_json():
    metrics = classification_metrics([0, 0], torch.tensor([0.2, 1.0]))
    assert metrics["roc_auc"] is None
    assert metrics["f1"] == 0
    assert all(value is None or math.isfinite(value) for value in metrics.values())


def test_probabilities_come_back_in_order_whatever_the_batches(tiny, messages):
    model = GPTClassifier(tiny)
    model.train()
    together = classify(model, messages)
    assert model.training
    torch.testing.assert_close(together.sum(dim=1), torch.ones(len(messages)))
    for index in (0, 13, 39):
        alone = classify(model, Encoded([messages.ids[index]], [0], 0), token_budget=1)
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-6, rtol=1e-5)


def test_majority_answers_the_commoner_label():
    train = [Message("a", 0), Message("b", 0), Message("c", 1)]
    metrics = classification_metrics([0, 1, 0], majority(train)(["d", "e", "f"]))
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["recall"] == 0
    assert metrics["balanced_accuracy"] == 0.5


def test_tfidf_learns_a_word_and_chooses_its_c_on_validation():
    """All messages are told apart, so the loss decides: the surer, the better, and the reverse
    where every validation label is wrong."""
    spam = [Message(f"win a prize {n} now", 1) for n in range(12)]
    ham = [Message(f"see you at {n} then", 0) for n in range(12)]
    parts = (spam[:6] + ham[:6], spam[6:9] + ham[6:9], spam[9:] + ham[9:])
    for characters in (False, True):
        metrics = tfidf_logistic_regression(*parts, characters=characters)
        assert metrics["accuracy"] == 1.0
        assert metrics["validation"]["f1"] == 1.0
        assert metrics["C"] == STRENGTHS[-1]
    train, validation, test = parts
    wrong = [Message(message.text, 1 - message.label) for message in validation]
    assert tfidf_logistic_regression(train, wrong, test)["C"] == STRENGTHS[0]
