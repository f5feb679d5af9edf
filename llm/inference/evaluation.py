"""How good a classifier is: its probabilities for messages, and the metrics of them.

Precision, recall and F1 are for the positive class (spam). With 11 % spam, answering "ham" to
everything is 89 % accurate: read accuracy beside F1 and balanced accuracy.
"""

from collections.abc import Callable, Sequence

import torch

from llm.data.batching import Encoded, collate, sorted_batches
from llm.model.classifier import GPTClassifier
from llm.utils.errors import NotFinite


@torch.no_grad()
def probabilities(
    logits_of: Callable[[list[int]], torch.Tensor], lengths: Sequence[int], token_budget: int = 2048
) -> torch.Tensor:
    """Class probabilities of messages, in batches of like length.

    Args:
        logits_of: takes the places of some messages, returns their logits (batch, n_classes).
        lengths: tokens in each message.
        token_budget: tokens in a batch at most, padding included.

    Returns:
        (messages, n_classes), on the CPU, in the order of `lengths`.
    """
    found: list[torch.Tensor] = []
    order: list[int] = []
    for indices in sorted_batches(lengths, token_budget):
        found.append(torch.softmax(logits_of(indices).float(), dim=-1).cpu())
        order += indices
    result = torch.cat(found)
    result[order] = result.clone()
    return result


def classify(model: GPTClassifier, messages: Encoded, token_budget: int = 2048) -> torch.Tensor:
    """Probabilities (messages, n_classes), on the CPU, in the order the messages came.

    Raises InputError when they are not finite numbers.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()

    def logits_of(indices: list[int]) -> torch.Tensor:
        batch = collate(messages, indices, device)
        return model(batch.ids, batch.lengths)  # (batch, n_classes)

    if not len(messages):
        return torch.empty(0, model.n_classes)
    found = probabilities(logits_of, [len(ids) for ids in messages.ids], token_budget)
    model.train(was_training)
    if not torch.isfinite(found).all():
        raise NotFinite("the model's answers are not finite numbers: its weights are damaged")
    return found


def classification_metrics(labels: Sequence[int], positive: torch.Tensor) -> dict[str, float]:
    """The metrics of `results.json` for two classes.

    Args:
        labels: 0 or 1 a message.
        positive: (messages,) probability of class 1.

    Returns:
        accuracy, balanced_accuracy, precision, recall, f1 (all at a threshold of 0.5), roc_auc and
        average_precision (of the ranking alone; None where only one class is present), loss (mean
        negative log-likelihood, in nats).
    """
    from sklearn import metrics

    labels = list(labels)
    likely = positive.double().clamp(1e-12, 1 - 1e-12)
    predicted = (likely > 0.5).long().tolist()
    truth = torch.tensor(labels, dtype=torch.float64)
    likelihood = truth * likely.log() + (1 - truth) * (1 - likely).log()
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, predicted, labels=[1], average=None, zero_division=0
    )
    both = len(set(labels)) == 2
    recalls = metrics.recall_score(
        labels, predicted, labels=sorted(set(labels)), average=None, zero_division=0
    )
    return {
        "accuracy": float(metrics.accuracy_score(labels, predicted)),
        "balanced_accuracy": float(recalls.mean()),
        "precision": float(precision[0]),
        "recall": float(recall[0]),
        "f1": float(f1[0]),
        "roc_auc": float(metrics.roc_auc_score(labels, likely)) if both else None,
        "average_precision": float(metrics.average_precision_score(labels, likely))
        if both
        else None,
        "loss": float(-likelihood.mean()),
    }


def best_threshold(labels: Sequence[int], positive: torch.Tensor) -> float:
    """The threshold with the highest F1; of several, the one nearest to 0.5.

    To be chosen on validation messages: chosen on test messages it would flatter.
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(list(labels), positive.double())
    f1 = 2 * precision * recall / (precision + recall).clip(1e-12)
    best = f1[:-1].max()
    return float(min(thresholds[f1[:-1] >= best - 1e-12], key=lambda at: abs(at - 0.5)))


def f1_at(labels: Sequence[int], positive: torch.Tensor, threshold: float) -> float:
    """F1 where a message counts as positive from `threshold` on."""
    from sklearn.metrics import f1_score

    return float(f1_score(list(labels), (positive >= threshold).tolist(), zero_division=0))
