"""The checks of exercises 4. They hold the answers to many questions: try first, read later."""

import math
from functools import cache
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from wrong_4 import other_chances, other_losses

from llm import load_base
from llm.data.tokenizer import mini_tokenizer
from llm.exercises import attempt, exercise, expect, same
from llm.utils.errors import InputError

MESSAGE = "You have won a £500 prize! Call 09061 now to claim it."


@cache
def mini():
    """The bundled base, to be read and not trained."""
    return load_base("mini").eval().requires_grad_(False)


class Counter:
    """A stand-in for a GPT-2 that looks at the last token it is shown and at how many there are.

    After token t at place n (from 0) it is sure of token (t + n + 1) % 50.
    """

    config = SimpleNamespace(context_length=4)

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """(batch, tokens) -> (batch, tokens, vocab_size); no more tokens than the context."""
        if ids.dim() != 2:
            raise IndexError(f"the model wants (batch, tokens), not {tuple(ids.shape)}")
        if ids.shape[1] > self.config.context_length:
            raise InputError(f"{ids.shape[1]} tokens do not fit into the context of 4; cut them")
        return F.one_hot((ids + torch.arange(ids.shape[1]) + 1) % 50, 50).float()


@exercise("4.1")
def check_targets(next_tokens):
    # The third message itself holds a token 0, which is not padding.
    ids = torch.tensor([[5, 6, 7, 8], [5, 9, 3, 0], [4, 0, 0, 0]])
    lengths = torch.tensor([4, 3, 2])
    given = ids.clone()
    found = attempt(
        *(next_tokens, ids, lengths),
        hint="Sizes do not fit. `targets[:, :-1] = ids[:, 1:]` shifts; and lengths[:, None], a "
        "column, can be compared with places (tokens,).",
    )
    assert torch.equal(ids, given), (
        "ids were changed themselves, and the model still has to read them. Fill a tensor of your "
        "own: torch.full_like(ids, -100)."
    )
    no = -100
    wanted = torch.tensor([[6, 7, 8, no], [9, 3, no, no], [0, no, no, no]])
    mistakes = {
        "Nothing was shifted: the model would be asked for the token that it is looking at, and "
        "would learn to copy.": [[5, 6, 7, 8], [5, 9, 3, no], [4, 0, no, no]],
        "Shifted the wrong way: that asks for the token BEFORE. The target at place i is token "
        "i + 1.": [[no, 5, 6, 7], [no, 5, 9, no], [no, 4, no, no]],
        "Shifted the wrong way, to the right. The target at place i is token i + 1, not i - 1.": [
            *([no, 5, 6, no], [no, 5, no, no], [no, no, no, no])
        ],
        "torch.roll brings the first token round to the end, and the last real token is asked for "
        "something that does not follow it: nothing does, so -100.": [
            *([6, 7, 8, 5], [9, 3, 0, no], [0, 0, no, no])
        ],
        "The last real token of a padded message is asked for the padding. Nothing follows it: "
        "from place lengths - 1 on it is -100.": [[6, 7, 8, no], [9, 3, 0, no], [0, 0, no, no]],
        "The padding counts: the model would learn that 0 follows 0, which is easy and useless. "
        "From place lengths - 1 on it is -100.": [[6, 7, 8, no], [9, 3, 0, no], [0, 0, 0, no]],
        "torch.roll brings the first token round to the end, and the padding counts too.": [
            *([6, 7, 8, 5], [9, 3, 0, 5], [0, 0, 0, 4])
        ],
        "You looked for the token 0, but a message may contain one, as the last here does. Go by "
        "lengths.": [[6, 7, 8, no], [9, 3, no, no], [no, no, no, no]],
        "One too many was left out: the last token but one has something to predict, the last.": [
            [6, 7, no, no],
            [9, no, no, no],
            [no, no, no, no],
        ],
        "Where nothing follows it should be -100. 0 is a token like any other.": [
            *([6, 7, 8, 0], [9, 3, 0, 0], [0, 0, 0, 0])
        ],
    }
    if torch.is_tensor(found) and found.shape == (3, 3):
        raise AssertionError(
            "A column is missing. Keep the shape of ids, with -100 where nothing follows, so that "
            "targets and scores go together place by place."
        )
    mistakes = {hint: torch.tensor(rows) for hint, rows in mistakes.items()}
    expect(found, wanted, mistakes, what="the targets")
    asked = int((wanted != no).sum())
    return (
        f"{asked} questions from {int(lengths.sum())} tokens, and nobody had to label anything: "
        "that is why a model can practise on whatever has been written."
    )


@exercise("4.2")
def check_loss(next_token_loss):
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(2, 4, 5, generator=generator)  # (batch, tokens, vocab_size)
    targets = torch.tensor([[1, 4, 2, -100], [3, -100, -100, -100]])
    found = attempt(
        *(next_token_loss, logits, targets),
        hint="Indexing fails. gather wants the places as (batch, tokens, 1), targets[..., None], "
        "and no -100 among them: targets.clamp(min=0). F.cross_entropy wants two dimensions: "
        "logits.flatten(0, 1) and targets.flatten().",
    )
    wanted = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
    mistakes = {} if same(found, wanted) else other_losses(logits, targets)
    expect(found, wanted, mistakes, what="the loss")
    tokens = mini_tokenizer().encode(MESSAGE)
    ids = torch.tensor([[mini_tokenizer().eot_id, *tokens]])
    nats = next_token_loss(mini()(ids[:, :-1]), ids[:, 1:]).item()
    return (
        f"On our message mini pays {nats:.2f} nats a token, as much as choosing blindly among "
        f"{math.exp(nats):.0f} (e to that power, the perplexity) of its 8,192 tokens."
    )


@exercise("4.3")
def check_chances(chances):
    p = torch.tensor([[0.1, 0.4, 0.2, 0.25, 0.05], [0.26, 0.20, 0.14, 0.19, 0.21]])
    logits = p.log() + 3  # softmax does not mind a number added to all
    fits = (
        "Sizes do not fit. The k-th largest of each row, as a column, can be compared with the "
        "row: logits.topk(k, dim=-1).values[..., -1:]."
    )
    keep = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 0, 0, 1]]).bool()
    sharp = (p**2).masked_fill(~keep, 0)
    wanted = sharp / sharp.sum(-1, keepdim=True)
    found = attempt(chances, logits, 0.5, 3, hint=fits)
    mistakes = {} if same(found, wanted) else other_chances(p, logits, keep)
    expect(found, wanted, mistakes, what="the chances at temperature 0.5 and top_k = 3")
    everything = attempt(
        *(chances, logits, 1.0, None),
        hint="top_k = None means: leave no token out.",
        of=(TypeError, RuntimeError),
    )
    expect(everything, p, what="the chances at temperature 1, with no token left out")
    ids = torch.tensor([mini_tokenizer().encode("You have won a")])
    scores = mini()(ids)[:, -1]
    cold, hot = (chances(scores, t, None).max().item() for t in (0.5, 2.0))
    return (
        f"After 'You have won a' the likeliest of mini's tokens has {100 * cold:.0f} % at "
        f"temperature 0.5 and {100 * hot:.1f} % at 2."
    )


@exercise("4.4")
def check_write(write):
    model, start = Counter(), torch.tensor([[3, 7], [20, 1]])

    def greedy(scores):
        if scores.dim() != 2:
            raise IndexError(f"choose wants (batch, vocab_size), not {tuple(scores.shape)}")
        return scores.argmax(-1, keepdim=True)  # (batch, 1)

    def told(tokens_of, text=start):
        for step in range(6):
            text = tokens_of(text, step)
        return text

    def step(shown, at=-1):
        return greedy(model(shown)[:, at])

    def found_by(hint=""):
        return attempt(
            *(write, model, start, 6, greedy),
            hint="Something does not fit. The model gives (batch, tokens, vocab_size); choose "
            "wants the scores of the last place, [:, -1], and gives (batch, 1), which "
            "torch.cat(..., dim=1) puts at the end.",
        )

    before = start.clone()
    try:
        found = found_by()
    except AssertionError as error:
        if "do not fit into the context" in str(error):
            raise AssertionError(
                "The text has outgrown the context. Show the model only the last "
                "model.config.context_length tokens: ids[:, -context:]."
            ) from None
        raise
    assert torch.equal(start, before), "The prompt itself was changed; make a longer one."
    wanted = told(lambda text, _: torch.cat([text, step(text[:, -4:])], 1))
    mistakes = {
        "The context was cut at the wrong end: the model always sees the beginning, and says the "
        "same again. Show it the LAST tokens.": told(
            lambda text, _: torch.cat([text, step(text[:, :4])], 1)
        ),
        "You took the scores after the first token. The next one follows the last: [:, -1].": told(
            lambda text, _: torch.cat([text, step(text[:, -4:], 0)], 1)
        ),
        "The model saw the last token alone, and has forgotten the rest. Show it the text, as much "
        "as fits.": told(lambda text, _: torch.cat([text, step(text[:, -1:])], 1)),
        "The model always saw the prompt alone. Show it what has been written so far.": told(
            lambda text, _: torch.cat([text, step(start)], 1)
        ),
        "The prompt is missing. Return prompt and new tokens together.": wanted[:, 2:],
        "One token too few.": wanted[:, :-1],
        "The text has lost its beginning: what the model is shown is cut, what is written is "
        "not.": wanted[:, -5:],
        "new_tokens counts the new tokens, without the prompt.": wanted[:, :6],
        "You put each token in front of the text. It goes to the end.": told(
            lambda text, _: torch.cat([step(text[:, -4:]), text], 1)
        ),
    }
    expect(found, wanted, mistakes, what="the text")
    calls = []

    def always_one(scores):
        calls.append(scores)
        return torch.ones(len(scores), 1, dtype=torch.long)

    drawn = attempt(write, model, start, 2, always_one)
    assert calls and drawn[:, 2:].eq(1).all(), (
        "Your text does not hold what choose chose. Call choose(scores), and take its token, "
        "whatever it is; that is how a temperature comes in."
    )
    return "Whatever chooses a token can write with it now. In the next cell mini does."
