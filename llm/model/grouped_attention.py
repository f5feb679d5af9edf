"""Causal attention among short messages on a CPU, by plain batched products.

PyTorch's fused kernel never writes down who looks at whom how much, tokens x tokens a head, which
is what one wants for long texts. At 30 tokens it spends most of its time on anything but products.
Here these weights are written down and kept for the backward pass. That is no more than a few of
the vectors that a block keeps of each token anyway, as long as messages are short (`is_short`).

The numbers are those of `llm.model.attention.causal` in each message, to rounding.
"""

import math

import torch
from torch.autograd.function import once_differentiable

from llm.model.groups import LengthGroups


def is_short(groups: LengthGroups, queries: torch.Tensor) -> bool:
    """Whether the weights of these messages are at most twice as many numbers as the queries.

    Args:
        queries: (1, n_heads, all_tokens, head_dim).
    """
    weights = sum(messages * longest**2 for messages, longest in groups.shapes)  # of a head
    return weights <= 2 * queries.shape[2] * queries.shape[3]


def attend_in_groups(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, groups: LengthGroups
) -> torch.Tensor:
    """Every token attends to itself and to those before it in its message.

    Args:
        queries, keys, values: (1, n_heads, all_tokens, head_dim) each, messages laid end to end.
        groups: of the same messages.

    Returns:
        (1, n_heads, all_tokens, head_dim)
    """
    _, n_heads, tokens, head_dim = queries.shape
    rows = (x.transpose(1, 2).reshape(-1, head_dim) for x in (queries, keys, values))
    attended = _GroupedAttention.apply(*rows, groups, n_heads)  # (all_tokens * n_heads, head_dim)
    return attended.view(1, tokens, n_heads, head_dim).transpose(1, 2)


class _GroupedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, queries, keys, values, groups, n_heads):
        sources, places = groups.of_heads(n_heads)
        q, k, v = (x.index_select(0, sources) for x in (queries, keys, values))
        q.mul_(1 / math.sqrt(q.shape[1]))
        out, kept = torch.empty_like(q), []
        parts = (_split(x, groups, n_heads) for x in (q, k, v, out))
        for mask, q_, k_, v_, out_ in zip(groups.masks, *parts):
            scores = torch.bmm(q_, k_.transpose(1, 2))  # (messages * n_heads, longest, longest)
            scores += mask
            kept.append(torch.softmax(scores, -1))
            torch.bmm(kept[-1], v_, out=out_)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.groups, ctx.n_heads = groups, n_heads
        return out.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, *kept = ctx.saved_tensors
        sources, places = ctx.groups.of_heads(ctx.n_heads)
        # Zeros in the padding: then it gets no gradient, and what is real gets none from there.
        grad = torch.zeros_like(q).index_copy_(0, places, grad)
        grads = [torch.empty_like(q) for _ in range(3)]
        parts = (_split(x, ctx.groups, ctx.n_heads) for x in (q, k, v, grad, *grads))
        for weights, q_, k_, v_, grad_, grad_q, grad_k, grad_v in zip(kept, *parts):
            torch.bmm(weights.transpose(1, 2), grad_, out=grad_v)
            grad_weights = torch.bmm(grad_, v_.transpose(1, 2))
            grad_scores = torch.ops.aten._softmax_backward_data(
                grad_weights, weights, -1, weights.dtype
            )
            torch.bmm(grad_scores, k_, out=grad_q)
            torch.bmm(grad_scores.transpose(1, 2), q_, out=grad_k)
        grads[0].mul_(1 / math.sqrt(q.shape[1]))
        return *(x.index_select(0, places) for x in grads), None, None


def _split(x: torch.Tensor, groups: LengthGroups, n_heads: int) -> list[torch.Tensor]:
    """(rows, head_dim) -> (messages * n_heads, longest, head_dim) a group."""
    shapes = [(messages * n_heads, longest) for messages, longest in groups.shapes]
    parts = x.split([matrices * longest for matrices, longest in shapes])
    return [part.view(*shape, -1) for part, shape in zip(parts, shapes)]
