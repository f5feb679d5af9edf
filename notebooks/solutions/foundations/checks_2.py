"""The checks of exercises 2.1 to 2.4. They hold answers: try first, read later."""

import math

import torch
import torch.nn.functional as F

from llm.exercises import attempt, exercise, expect

FUTURE = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 0, 0]], dtype=torch.bool)  # of three tokens


@exercise("2.1")
def check_mask(future_mask):
    found = attempt(future_mask, 3)
    assert found is None or torch.is_tensor(found), "Return a tensor."
    assert found is None or found.shape == (3, 3), (
        f"The mask of three tokens has three rows and three columns; yours is {tuple(found.shape)}."
    )
    table = found if found is None else found.bool()
    everything = torch.ones(3, 3, dtype=torch.bool)
    mistakes = {
        "A token may look at itself: the diagonal is allowed. Begin one above it.": (
            everything.triu()
        ),
        "You struck out the past and left the future open: rows look, columns are looked at.": (
            FUTURE.T
        ),
        "You struck out the past, and the token itself, and left the future "
        "open.": everything.tril(),
        "It is the wrong way round: True means forbidden here.": ~FUTURE,
        "Everything is forbidden. Only the future is.": everything,
        "Nothing is forbidden. The future is.": ~everything,
        "The next token is still to be seen: begin one above the diagonal, not two.": (
            everything.triu(2)
        ),
    }
    # What is left open by -inf and 0, as masks are often written, is the wrong way round as bool().
    expect(table, FUTURE, mistakes, "the mask of three tokens")
    assert found.dtype == torch.bool, (
        f"The places are right, but yours holds {found.dtype}; a mask is True and False: "
        "torch.bool."
    )
    return "With it, one run over 21 tokens is training on 20 questions, and none gives the answer."


@exercise("2.2")
def check_scores(scaled_scores):
    torch.manual_seed(0)
    q, k = torch.randn(2, 3, 4), torch.randn(2, 3, 4)  # two heads, three tokens, four numbers each
    found = attempt(
        *(scaled_scores, q, k),
        hint="The shapes do not fit: q (2, 3, 4) meets k turned over in its last two dimensions, "
        "(2, 4, 3). `k.transpose(-2, -1)` does that, and `k.T` turns the heads as well.",
    )
    plain = torch.einsum("hid,hjd->hij", q, k)
    mistakes = {
        "The scale is missing: divide by the square root of d.": plain,
        "You divided by d. It is the square root of d.": plain / 4,
        "You multiplied by the square root of d. Divide.": plain * 2,
        "You divided by the root of the number of tokens. d is the width of a row, "
        "q.shape[-1].": plain / math.sqrt(3),
        "You divided by the root of the number of heads here. d is the width of a row, "
        "q.shape[-1].": plain / math.sqrt(2),
        "It is transposed: rows are queries, columns are keys. q comes first.": (
            plain.transpose(1, 2) / 2
        ),
        "You multiplied number by number, and did not sum up. @ is the matrix product.": q * k / 2,
        "These are weights already. Softmax is exercise 2.3.": torch.softmax(plain / 2, -1),
    }
    expect(found, plain / 2, mistakes, "the scores of two heads, three tokens, d = 4")
    return (
        f"For GPT-2's heads of 64 numbers each, scores are divided by {math.sqrt(64):g}; without "
        "that they would be choices, not weights."
    )


def _weights(scores, dim=-1):
    return torch.softmax(scores, dim)


@exercise("2.3")
def check_weights(attention_weights):
    scores = torch.tensor([[1.0, 3.0, 2.0], [0.5, 1.5, 4.0], [0.0, 1.0, -1.0]])
    given = scores.clone()
    found = attempt(
        *(attention_weights, given, FUTURE),
        hint="The shapes do not fit: keep the dimension with keepdim=True.",
    )
    assert torch.equal(given, scores), (
        "The scores that you were given have changed. masked_fill without the _ at its end makes a "
        "copy; masked_fill_ does not."
    )
    masked = scores.masked_fill(FUTURE, -torch.inf)
    wanted, powers = _weights(masked), masked.exp()
    shifted = (masked - masked.amax(-1, keepdim=True)).exp()
    crossed = (masked - masked.amax(-1)).exp()
    assert not (torch.is_tensor(found) and found.isnan().any()), (
        "There are numbers that are none (nan). Infinity minus infinity is one, and so is 0 / 0: "
        "take "
        "the largest score of each row, along the last dimension, after striking out."
    )
    mistakes = {
        "The future is not struck out.": _weights(scores),
        "You struck out after softmax, so the rows do not sum to 1 any more. Strike out before.": (
            _weights(scores).masked_fill(FUTURE, 0)
        ),
        "You set the future to 0 before softmax. The power of 0 is 1: take minus "
        "infinity.": _weights(scores.masked_fill(FUTURE, 0)),
        "The columns sum to 1. The rows should: take the last dimension, -1.": _weights(masked, 0),
        "The sums of the rows were applied to the columns: keep the dimension, with "
        "keepdim=True.": powers / powers.sum(-1),
        "The sums of the rows were applied to the columns: keep the dimension in sum, with "
        "keepdim=True.": shifted / shifted.sum(-1),
        "The largest scores of the rows were applied to the columns: keep the dimension in amax, "
        "with keepdim=True.": crossed / crossed.sum(-1, keepdim=True),
        "The whole table sums to 1. Every row should.": powers / powers.sum(),
        "The table as a whole was divided by one sum. Every row has its own.": (
            shifted / shifted.sum()
        ),
        "These are the powers. Divide by the sum of each row.": powers,
        "These are the powers. Divide by the sum of their row.": shifted,
        "You allowed the future and struck out the rest: the mask is True where looking is "
        "forbidden.": _weights(scores.masked_fill(~FUTURE, -torch.inf)).nan_to_num(0),
    }
    expect(found, wanted, mistakes, "the weights of three tokens")
    large = scores * torch.tensor([[1.0], [300.0], [-1000.0]])
    found = attempt(attention_weights, large.clone(), FUTURE)
    assert found.isfinite().all(), (
        "Right for small scores. But the power of a score of 450 is infinite, and that of -1000 is "
        "0 "
        "whatever its row looks like: subtract the largest score of each ROW first."
    )
    expect(
        found, _weights(large.masked_fill(FUTURE, -torch.inf)), what="the weights of large scores"
    )
    return "Every row sums to 1 and nobody sees the future: the cell below draws your weights."


@exercise("2.4")
def check_attend(attend):
    torch.manual_seed(0)
    q, k, v = (2 * torch.randn(2, 3, 4, 4) for _ in range(3))  # as many tokens as numbers
    found = attempt(
        *(attend, q, k, v),
        hint="The shapes do not fit. Write the shape behind each line: scores and weights are "
        "(…, tokens, tokens), and only the keys are turned, by transpose(-2, -1).",
    )
    assert not (torch.is_tensor(found) and found.isnan().any()), (
        "There are numbers that are none (nan): a row of scores has been struck out as a whole. A "
        "token "
        "may look at itself."
    )
    kernel = F.scaled_dot_product_attention
    scores = q @ k.transpose(-2, -1) / 2
    future = torch.ones(4, 4, dtype=torch.bool).triu(1)
    masked = scores.masked_fill(future, -torch.inf)
    weights = _weights(masked)
    mistakes = {
        "The mask is missing: tokens see the future.": kernel(q, k, v),
        "The scale is missing: divide the scores by the square root of d.": kernel(
            q, k, v, is_causal=True, scale=1.0
        ),
        "You divided by d. It is the square root of d.": kernel(
            q, k, v, is_causal=True, scale=0.25
        ),
        "Softmax went down the columns. Take the last dimension, -1.": _weights(masked, -2) @ v,
        "The weights are transposed: row i of the weights, times the values.": (
            weights.transpose(-2, -1) @ v
        ),
        "These are the weights. Multiply them by the values.": weights,
        "The scores were multiplied by the values, without softmax.": (
            scores.masked_fill(future, 0) @ v
        ),
        "Struck out after softmax, or by 0 before it: the rows have to sum to 1 without the "
        "future.": _weights(scores).masked_fill(future, 0) @ v,
        "You set the future to 0 before softmax. The power of 0 is 1: take minus infinity.": (
            _weights(scores.masked_fill(future, 0)) @ v
        ),
        "Keys and values are exchanged: the weights come from the keys.": kernel(
            q, v, k, is_causal=True
        ),
        "The queries met the values. They are to meet the keys.": kernel(q, v, v, is_causal=True),
        "The mask is upside down: tokens see the future and not the past.": _weights(
            scores.masked_fill(future.T, -torch.inf)
        )
        @ v,
    }
    expect(found, kernel(q, k, v, is_causal=True), mistakes, "the output of causal attention")
    one = attend(q[:1, :1, :1], k[:1, :1, :1], v[:1, :1, :1])
    expect(one, v[:1, :1, :1], what="what a single token hears (its own value)")
    return "PyTorch's kernel gives the same numbers, without ever writing the table down."
