"""What wrong answers of exercises 4 give, each under the hint that names the mistake."""

import math

import torch


def other_losses(logits: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    """What wrong formulae give, under the hint that names the mistake."""
    counts = targets != -100
    at = targets.clamp(min=0)[..., None]

    def of_target(log_p):
        return log_p.gather(-1, at)[..., 0]

    nats = -of_target(logits.log_softmax(-1))  # (batch, tokens)
    right = nats[counts].mean()
    along_tokens = -of_target(logits.log_softmax(1))[counts].mean()
    rows = [row[real].mean() for row, real in zip(nats, counts, strict=True)]
    return {
        "The sign is wrong: a probability is below 1, its logarithm negative, and the loss is "
        "MINUS that.": -right,
        "You divided by all places, padding included; then a batch with more padding looks better. "
        "Divide by the places that count.": (nats * counts).sum() / counts.numel(),
        "The places with -100 were counted, as if they asked for token 0.": nats.mean(),
        "That is the sum. Take the mean, or a long message would take longer steps.": nats[
            counts
        ].sum(),
        "You took the mean of each message first, then of those. A token of a short message would "
        "count more than one of a long message.": torch.stack(rows).mean(),
        "That is in bits. The loss of training is in nats: the natural logarithm.": right
        / math.log(2),
        "The scores are no probabilities yet: subtract logsumexp, or take log_softmax.": -of_target(
            logits
        )[counts].mean(),
        "The softmax ran along the tokens. It is over the vocabulary, the last dimension: "
        "dim=-1.": along_tokens,
        "The softmax was taken twice. F.cross_entropy takes scores, and makes probabilities of "
        "them itself.": -of_target(logits.softmax(-1).log_softmax(-1))[counts].mean(),
        "Logarithm and mean are the wrong way round: the logarithm of each probability first.": -(
            of_target(logits.softmax(-1))[counts].mean().log()
        ),
        "Those are probabilities; the loss is minus their logarithm.": of_target(
            logits.softmax(-1)
        )[counts].mean(),
        "The logarithm is missing: that is one minus the probability.": (
            1 - of_target(logits.softmax(-1))[counts].mean()
        ),
        "You gave one loss for each place. Training wants one number: their mean.": nats[counts],
    }


def other_chances(
    p: torch.Tensor, logits: torch.Tensor, keep: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Chances of tokens (batch, vocab_size) at temperature 0.5 and top_k 3.

    p: those at temperature 1. keep: the three likeliest of each row.
    """
    flat = p.sqrt().masked_fill(~keep, 0)
    only = p.masked_fill(~keep, 0)
    two = (p**2).masked_fill(p < p.topk(2).values[..., -1:], 0)
    least = (p**2).masked_fill(p > p.topk(3, largest=False).values[..., -1:], 0)
    no_k = (p**2) / (p**2).sum(-1, keepdim=True)
    scaled = logits / 0.5
    return {
        "You multiplied by the temperature. Divide: below 1 it makes the likely likelier.": flat
        / flat.sum(-1, keepdim=True),
        "The temperature does not show. Divide the scores by it BEFORE the softmax; dividing "
        "probabilities, and making them sum to 1 again, changes nothing.": only
        / only.sum(-1, keepdim=True),
        "You divided the probabilities by the temperature; now they sum to 2. Divide the scores, "
        "before the softmax.": only / only.sum(-1, keepdim=True) / 0.5,
        "top_k does not show: all tokens still have a chance.": no_k,
        "The tokens that were left out took their chances with them: the rows no longer sum to 1. "
        "Leave out before the softmax, or divide by the sum.": no_k * keep,
        "A score of 0 is no impossible token: e to the power 0 is 1. The others need minus "
        "infinity.": scaled.masked_fill(~keep, 0).softmax(-1),
        "You kept the least likely tokens.": least / least.sum(-1, keepdim=True),
        "You lost the k-th: keep what is AT LEAST as large as the k-th score.": two
        / two.sum(-1, keepdim=True),
        "topk sorts, and you gave back its order: nobody knows any more which token is meant. "
        "Every token keeps its place, (batch, vocab_size).": scaled.topk(3).values.softmax(-1),
        "The softmax ran along the batch. It is over the vocabulary, dim=-1.": scaled.masked_fill(
            ~keep, -torch.inf
        )
        .softmax(0)
        .nan_to_num(),
        "The k-th largest was taken from the whole batch. Each row has its own.": (
            (p**2).masked_fill(p < p.flatten().topk(3).values[-1], 0)
            / (p**2).masked_fill(p < p.flatten().topk(3).values[-1], 0).sum(-1, keepdim=True)
        ).nan_to_num(),
        "Those are scores. The softmax is missing.": scaled.masked_fill(~keep, -torch.inf),
    }
