"""The checks of exercises 1. They hold the answers to many questions: try first, read later."""

import math

import torch
import torch.nn.functional as F
from checks_variant import VARIANT

from llm.exercises.checks import attempt, exercise, expect

X = VARIANT["ignored"]  # what stands where no token is to be predicted


@exercise("1.1")
def check_padding(padding_targets):
    # Message 0 has a token 0 in its middle and message 1 ends in one; what follows is padding.
    ids = torch.tensor([[7, 3, 0, 5, 8], [4, 0, 0, 0, 0], [6, 2, 9, 0, 0]])
    lengths = torch.tensor([5, 2, 3])
    given = ids.clone()
    found = attempt(
        *(padding_targets, given, lengths),
        hint="The shapes do not fit. There are tokens - 1 places in each row from which to look "
        "ahead; lengths[:, None] makes a column of the lengths, to be compared with a row.",
    )
    assert torch.equal(given, ids), (
        "Your function changed ids itself: a slice such as ids[:, 1:] is a view of the same "
        "memory. Use masked_fill or torch.where, which make a new tensor, or clone first."
    )
    after = ids[:, 1:]
    mistakes = {
        "The padding is learned: nothing follows the last real token of a shorter message, so "
        f"{X} has to stand there. (A 0 is a token like others.)": after,
        "You looked for the padding token 0 in ids, but messages hold it as well. Use lengths.": (
            after.masked_fill(after == 0, X)
        ),
        "Off by one: after the last real token a place of padding still counts. A message of "
        "length n has n - 1 tokens that follow another.": torch.tensor(
            [[3, 0, 5, 8], [0, 0, X, X], [2, 9, 0, X]]
        ),
        "Off by one: the last real token of each message is missing. It is predicted, too, from "
        "the one before it.": torch.tensor([[3, 0, 5, X], [X, X, X, X], [2, X, X, X]]),
        "Nothing was shifted: each place has to predict the token after it, not its own.": (
            torch.tensor([[7, 3, 0, 5], [4, X, X, X], [6, 2, X, X]])
        ),
    }
    wanted = torch.tensor([[3, 0, 5, 8], [0, X, X, X], [2, 9, X, X]])
    if X != -100:
        habit = f"You filled with -100, PyTorch's habit; here it is {X}."
        mistakes[habit] = wanted.masked_fill(wanted == X, -100)
    expect(found, wanted, mistakes, what="the targets")
    share = (found != X).float().mean().item()
    return (
        f"Of these 12 places {share:.0%} teach something; without your mask the model would learn "
        "to write padding as well. Chat models use the same mask to leave out what the user said."
    )


@exercise("1.2")
def check_packed(packed_targets):
    row, lengths = torch.tensor([7, 3, 5, 4, 0, 6, 2, 9]), torch.tensor([3, 2, 3])
    given = row.clone()
    found = attempt(
        *(packed_targets, given, lengths),
        hint="Indexing fails. Documents of 3, 2 and 3 tokens end at the places 2, 4 and 7: "
        "lengths.cumsum(0) - 1.",
    )
    assert torch.equal(given, row), "Your function changed row itself: clone before you write."
    mistakes = {
        "The loss runs across documents: the last token of one is asked for the first of the "
        "next. Nothing follows it.": torch.tensor([3, 5, 4, 0, 6, 2, 9, X]),
        "The last place of all still has a target: torch.roll brings the first token round to "
        "it. No document goes on there.": torch.tensor([3, 5, X, 0, X, 2, 9, 7]),
        "You masked the first token of each document, at its own place. Masked has to be the "
        "place before it, from which it would be predicted.": torch.tensor(
            [X, 5, 4, X, 6, X, 9, 7]
        ),
        "Nothing was shifted: each place has to predict the token after it.": torch.tensor(
            [7, 3, X, 4, X, 6, 2, X]
        ),
        "The row has lost a place. Keep one target a token: what stands last in its document "
        f"gets {X}.": torch.tensor([3, 5, X, 0, X, 2, 9]),
        "The places where nothing follows are left out. Keep one target a token; the loss skips "
        f"{X} by itself.": torch.tensor([3, 5, 0, 2, 9]),
    }
    expect(found, torch.tensor([3, 5, X, 0, X, 2, 9, X]), mistakes, what="the targets")
    return (
        "Documents lie end to end, nothing is padded, and each is learned as if it were alone. "
        "That is how the library trains on a CPU (`Packed` in llm/model/layouts.py)."
    )


@exercise("1.3")
def check_bayes(p_spam):
    spam = VARIANT["spam_of_100"]
    ham = 100 - spam
    likely = torch.tensor([0.02, 0.01, 0.01]).log(), torch.tensor([0.01, 0.01, 0.04]).log()
    found = attempt(p_spam, *likely)
    ratio = torch.tensor([2.0, 1.0, 0.25])  # p(x | spam) / p(x | ham)
    odds = ratio * spam / ham
    mistakes = {
        f"The prior is missing: {spam} of 100 messages are spam, before any is read.": ratio
        / (1 + ratio),
        "The prior is upside down: add log p(spam) - log p(ham), spam first.": ratio
        * ham
        / (spam + ratio * ham),
        "Both kinds have a prior: add log p(spam) to the one and log p(ham) to the other.": ratio
        * spam
        / (100 + ratio * spam),
        "Those are the odds. The probability is odds / (1 + odds), or a sigmoid of the "
        "log-odds.": odds,
        "Those are the log-odds; a sigmoid makes a probability of them.": odds.log(),
        "That is the probability of ham; the two sum to 1.": 1 / (1 + odds),
        "The two voices are swapped: the more likely under the spam voice, the more likely spam.": (
            spam / ratio / (ham + spam / ratio)
        ),
    }
    expect(found, odds / (1 + odds), mistakes, what="p(spam) where the voices differ 2 : 1, 1 : 1 "
           "and 1 : 4")  # fmt: skip
    far = torch.tensor([-803.0, -120.0]), torch.tensor([-800.0, -260.0])
    found = attempt(p_spam, *far)
    assert torch.isfinite(torch.as_tensor(found)).all(), (
        "For a message of log p = -800 your answer is no number: e to the power -800 is zero for a "
        "computer, and 0 / 0 is nothing. Stay in logarithms: subtract first."
    )
    wanted = torch.sigmoid(torch.tensor([-3.0, 140.0]) + math.log(spam / ham))
    expect(found, wanted, what="p(spam) at log p of -803 and -800, and of -120 and -260")
    even = 100 * odds[1].item() / (1 + odds[1].item())
    return (
        f"Where both voices find a message equally likely, {even:.0f} % remains, the prior. Two "
        "language models are a classifier now, and nobody trained it to tell apart."
    )


@exercise("1.4")
def check_chances(chances):
    k = VARIANT["top_k"]
    weights = torch.tensor([2.0, 32.0, 1.0, 8.0, 16.0, 4.0, 0.5])  # logits are their logarithms
    order = weights.argsort(descending=True)
    kept = torch.zeros(7).index_fill(0, order[:k], 1.0)
    one_less, one_more = (
        torch.zeros(7).index_fill(0, order[:count], 1.0) for count in (k - 1, k + 1)
    )
    last = torch.zeros(7).index_fill(0, order[-k:], 1.0)

    def share(values):
        return values / values.sum()

    found = attempt(
        *(chances, weights.log(), 0.5),
        hint="The shapes do not fit. logits is one row, (vocab,), and so is what you give back.",
    )
    sharp = weights**2  # softmax(log w / 0.5) goes with w^2
    plain, soft = share(weights), share(weights.sqrt())
    after = share(kept * torch.softmax(plain / 0.5, 0))
    mistakes = {
        f"All tokens are left: keep the {k} likeliest and set the others to 0.": share(sharp),
        "The temperature is forgotten: divide the logits by it.": share(kept * weights),
        "You multiplied by the temperature. Divide: below 1 the likely get likelier.": share(
            kept * weights.sqrt()
        ),
        "What is left no longer sums to 1: divide by the sum of what you keep.": kept
        * share(sharp),
        "You divided probabilities by the temperature. It divides the logits, before softmax.": (
            after
        ),
        f"One token too many: keep {k}.": share(one_more * sharp),
        f"One token too few: keep {k}.": share(one_less * sharp),
        "You kept the unlikeliest tokens; sort in falling order.": share(last * sharp),
        f"Those are the probabilities of the {k} tokens alone. Give one a token of the "
        "vocabulary, in its place, 0 where it was not kept.": share(weights[order[:k]] ** 2),
        "They are in falling order now: put each probability back to its token.": share(
            (kept * sharp)[order]
        ),
        "All tokens are left, and you multiplied by the temperature.": soft,
        "All tokens are left, and the temperature is forgotten.": plain,
    }
    if isinstance(found, torch.Tensor) and found.isnan().any():
        raise AssertionError(
            "There is a nan. Setting a logit to -inf is fine, 0 times -inf is not: set the "
            "tokens that do not stay to 0 after the softmax, or to -inf before it."
        )
    expect(found, share(kept * sharp), mistakes, what="the probabilities at temperature 0.5")
    found = attempt(chances, weights.log() + 1000, 2.0)
    assert torch.isfinite(found).all(), (
        "Logits of 1000 give no number: e to the power 1000 is too large. torch.softmax subtracts "
        "the largest logit first; so should you."
    )
    wanted = share(kept * weights.sqrt())
    assert torch.allclose(found, wanted, atol=1e-3), (
        "With 1000 added to every logit, the probabilities have to stay what they were: only "
        "differences count."
    )
    cold, hot = (100 * share(kept * weights ** (1 / T)).max().item() for T in (0.5, 2))
    return (
        f"The likeliest of these tokens is drawn {cold:.0f} times in 100 at temperature 0.5, and "
        f"{hot:.0f} times at 2. Every chat program has this slider."
    )


@exercise("1.5")
def check_entropy(entropy):
    unit, base = VARIANT["unit"], VARIANT["base"]
    p = torch.tensor([0.5, 0.25, 0.125, 0.125])
    nats = 1.75 * math.log(2)
    wanted = nats / math.log(base)
    mistakes = {
        f"The logarithm has the wrong base: for {unit} it is {base:g}.": nats,
        f"The logarithm has the wrong base: it is 2, for {unit} it should be {base:g}.": 1.75,
        "The sign is missing: the logarithm of a probability is negative.": -wanted,
        "That is the mean over the tokens; weigh each by its own probability and add up.": wanted
        / 4,
        "You took the mean of -log p over the tokens. Weigh each by its own probability.": (
            -p.log().mean().item() / math.log(base)
        ),
        "You added up -log p without weighing. Likely tokens come often: multiply by p.": (
            -p.log().sum().item() / math.log(base)
        ),
        "That is the perplexity, e to the entropy: leave the last step out.": math.exp(nats),
    }
    if same_number(wanted, nats):
        mistakes = dict(list(mistakes.items())[1:])
    if same_number(wanted, 1.75):
        del mistakes[next(hint for hint in mistakes if "it is 2, for" in hint)]
    what = f"the entropy of 1/2, 1/4, 1/8, 1/8 in {unit}"
    expect(attempt(entropy, p), wanted, mistakes, what=what)
    found = torch.as_tensor(attempt(entropy, torch.tensor([1.0, 0.0, 0.0])))
    assert torch.isfinite(found).all(), (
        "Where a token has the probability 0 your answer is no number: 0 times the logarithm of 0. "
        "Such a token never comes and adds nothing: leave it out (p[p > 0]), or use torch.xlogy."
    )
    expect(found, 0.0, what="the entropy of a certainty")
    uniform = math.log(8192) / math.log(base)
    return (
        f"At most it can be {uniform:.2f} {unit}, if all 8,192 tokens of the vocabulary were "
        "equally likely. The next figure shows where a voice is."
    )


def same_number(one: float, other: float) -> bool:
    return abs(one - other) < 1e-6


@exercise("1.6")
def check_slope(entropy_slope):
    logits = torch.tensor([3.0, 1.0, 0.0, -2.0])
    T = 2.0
    p = F.softmax(logits / T, 0)
    mean = (p * logits).sum()
    variance = (p * (logits - mean) ** 2).sum()
    found = attempt(entropy_slope, logits, T)
    flat = F.softmax(logits, 0)
    mistakes = {
        "You divided by T squared; another T comes from the chain rule, so it is T cubed.": variance
        / T**2,
        "You divided by T alone: it is T cubed.": variance / T,
        "The variance is not divided by T cubed.": variance,
        "All tokens weigh the same in your variance. Weigh each by its probability.": logits.var()
        / T**3,
        "All tokens weigh the same in your variance. Weigh each by its probability, p.": (
            logits.var(unbiased=False) / T**3
        ),
        "That is the mean of the squares. Subtract the square of the mean.": (p * logits**2).sum()
        / T**3,
        "The probabilities are those at temperature 1: softmax(logits / T).": (
            (flat * (logits - (flat * logits).sum()) ** 2).sum() / T**3
        ),
        "That is the standard deviation; the variance is its square.": variance.sqrt() / T**3,
        "The sign is wrong: hotter means less sure, so the entropy rises.": -variance / T**3,
        "You took the variance of logits / T, which has T squared in it already: divide that by "
        "T once.": variance / T**5,
        "You took the variance of logits / T and forgot the last T.": variance / T**2,
    }
    expect(found, variance / T**3, mistakes, what="the slope of the entropy at T = 2")
    return (
        "A variance is never negative, so a higher temperature can never make a model surer. That "
        "is proven now, for every model and every text."
    )
