"""A classifier for free: which of two voices would rather have written the message?

By Bayes' rule  p(spam | message) ~ p(message | spam) p(spam), so the log-odds are

    log p(message | spam voice) - log p(message | ham voice) + log p(spam) / p(ham).

No head, and nothing trained to tell apart: two language models, each of which has seen one class
alone (naive Bayes without its assumption that words do not depend on one another).
"""

import math
from collections.abc import Sequence

import torch

from llm.inference.adapters import Adapters
from llm.inference.voices import log_probabilities_mixed
from llm.utils.errors import InputError


def log_prior(counts: Sequence[int]) -> torch.Tensor:
    """log p of each class before anything is read: its share of the training messages, (classes,).

    Raises InputError where a class was never seen.
    """
    if not counts or min(counts) < 1:
        raise InputError(f"each class needs training messages, and there are {list(counts)}")
    return torch.tensor(counts, dtype=torch.float64).log() - math.log(sum(counts))


def posterior(log_likelihood: torch.Tensor, log_prior: torch.Tensor) -> torch.Tensor:
    """Bayes' rule, without leaving the logarithms until the end.

    Args:
        log_likelihood: (messages, classes), log p(message | class).
        log_prior: (classes,), log p(class).

    Returns:
        (messages, classes), p(class | message); rows sum to 1.
    """
    return torch.softmax(log_likelihood + log_prior, dim=-1)


def log_likelihoods(
    adapters: Adapters, messages: Sequence[str], voices: Sequence[str]
) -> torch.Tensor:
    """log p of each message in each voice, all in one mixed batch: (messages, voices), nats."""
    texts = [message for message in messages for _ in voices]
    log_p = log_probabilities_mixed(adapters, texts, list(voices) * len(messages))
    return log_p.view(len(messages), len(voices))


def classify_by_voices(
    adapters: Adapters, messages: Sequence[str], voices: Sequence[str], log_prior: torch.Tensor
) -> torch.Tensor:
    """Probabilities of the classes, without a head.

    Args:
        voices: the adapters' names in the order of the classes, ("ham", "spam").
        log_prior: of the classes in that order.

    Returns:
        (messages, classes), float64. Likelihoods of whole messages differ by many nats, so most
        are close to 0 or 1: the ranking can be trusted more than the probability.
    """
    return posterior(log_likelihoods(adapters, messages, voices), log_prior)
