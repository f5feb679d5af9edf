"""Causal multi-head attention: the only layer in which one token looks at another.

Source: Vaswani et al. 2017, "Attention Is All You Need", sections 3.2.1 and 3.2.2.

Two layouts run through the model:

* full rows `(batch, tokens, emb_dim)`: every row has the same number of tokens, as in pretraining;
* packed `(all_tokens, emb_dim)`: messages of different lengths laid end to end, with their
  `lengths` beside them. A text message has some 30 tokens, the longest over 200: padding every
  message to the longest would make most of the work worthless. All other layers treat each token
  by itself and do not notice; attention walks over the messages one by one.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from llm.model.config import GPTConfig


def attention_step_by_step(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """Causal attention written out, to be read; `attend` computes the same faster.

    Args:
        queries, keys, values: (..., tokens, head_dim) each.

    Returns:
        (..., tokens, head_dim): for each token a weighted mean of the values up to itself.
    """
    tokens, head_dim = queries.shape[-2:]
    scores = queries @ keys.transpose(-2, -1) / math.sqrt(head_dim)  # (..., tokens, tokens)
    future = torch.ones(tokens, tokens, dtype=torch.bool, device=queries.device).triu(diagonal=1)
    scores = scores.masked_fill(future, -torch.inf)  # a token may not look ahead
    weights = torch.softmax(scores, dim=-1)  # (..., tokens, tokens), each row sums to 1
    return weights @ values  # (..., tokens, head_dim)


def last_tokens(x: torch.Tensor, lengths: torch.Tensor | list[int]) -> torch.Tensor:
    """The last real token of each message, from either layout.

    Args:
        x: packed (all_tokens, emb_dim), or rows padded on the right (batch, tokens, emb_dim).
        lengths: real tokens in each of the `batch` messages.

    Returns:
        (batch, emb_dim)
    """
    lengths = torch.as_tensor(lengths, device=x.device)
    if x.dim() == 2:  # packed: message i ends where the lengths up to i add up
        return x[lengths.cumsum(0) - 1]
    return x[torch.arange(len(x), device=x.device), lengths - 1]


def each(layers: Sequence[nn.Module], x: torch.Tensor) -> Sequence[torch.Tensor]:
    """What each of several layers makes of the same x. LoRA layers share a part of that work."""
    together = getattr(type(layers[0]), "together", None)
    if together and len({type(layer) for layer in layers}) == 1:
        return together(layers, x)
    return [layer(x) for layer in layers]


class MultiHeadAttention(nn.Module):
    """Causal multi-head self-attention with separate query, key, value and output layers."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.n_heads, self.head_dim = config.n_heads, config.head_dim
        self.W_query = nn.Linear(config.emb_dim, config.emb_dim)
        self.W_key = nn.Linear(config.emb_dim, config.emb_dim)
        self.W_value = nn.Linear(config.emb_dim, config.emb_dim)
        self.out_proj = nn.Linear(config.emb_dim, config.emb_dim)
        self.drop_rate = config.drop_rate

    def forward(self, x, lengths=None, last_only=False, cache=None) -> torch.Tensor:
        """Let every token gather information from the tokens before it.

        Args:
            x: (batch, tokens, emb_dim), or packed (all_tokens, emb_dim) with `lengths`.
            lengths: real tokens of each message. Needed for the packed layout and `last_only`.
                Rows padded on the right need no mask otherwise: no token looks to its right.
            last_only: compute the output for each message's last token alone.
            cache: a `llm.inference.generate.LayerCache` that holds the keys and values of earlier tokens.

        Returns:
            the shape of `x`, or (batch, emb_dim) with `last_only`.
        """
        if last_only:
            queries = self.W_query(last_tokens(x, lengths))  # (batch, emb_dim)
            keys, values = each((self.W_key, self.W_value), x)
        else:
            queries, keys, values = each((self.W_query, self.W_key, self.W_value), x)
        if x.dim() == 2:
            context = self._attend_packed(queries, keys, values, lengths, last_only)
        elif last_only:
            # (batch, 1, 1, tokens): the one query may look at the real tokens, not the padding
            real_tokens = torch.as_tensor(lengths, device=x.device)[:, None]
            real = torch.arange(x.shape[1], device=x.device) < real_tokens
            queries = queries[:, None]  # (batch, 1, emb_dim)
            context = self.attend(queries, keys, values, mask=real[:, None, None])[:, 0]
        else:
            context = self.attend(queries, keys, values, cache=cache)
        return self.out_proj(context)

    def attend(self, queries, keys, values, mask=None, cache=None) -> torch.Tensor:
        """Attention over full rows, all heads at once.

        Args:
            queries: (batch, new_tokens, emb_dim). keys, values: (batch, tokens, emb_dim).
            mask: True where a query may look; without it, causal.

        Returns:
            (batch, new_tokens, emb_dim)
        """
        queries, keys, values = map(self._split_heads, (queries, keys, values))
        causal = mask is None
        if cache is not None:
            keys, values = cache.append(keys, values)
            new, seen = queries.shape[-2], keys.shape[-2]
            causal = new == seen
            if 1 < new < seen:  # new token i looks at all that was cached, and at new ones up to i
                mask = torch.ones(new, seen, dtype=torch.bool, device=keys.device).tril(seen - new)
        return self._join_heads(self._attend_heads(queries, keys, values, mask, causal))

    def _attend_packed(self, queries, keys, values, lengths, last_only) -> torch.Tensor:
        """Attention inside each message: (all_tokens, emb_dim), no padding anywhere.

        Heads are split and joined once for all messages: the messages are short, and at this
        size what counts is the number of operations, not their arithmetic.
        """
        lengths = lengths.tolist() if torch.is_tensor(lengths) else lengths
        # (all_tokens, emb_dim) -> (1, n_heads, all_tokens, head_dim) -> one slice a message
        queries, keys, values = (self._split_heads(x[None]) for x in (queries, keys, values))
        queries = queries.split(1 if last_only else lengths, dim=2)
        messages = zip(queries, keys.split(lengths, dim=2), values.split(lengths, dim=2))
        # The last token may look at its whole message, so it needs no mask.
        contexts = [self._attend_heads(*message, causal=not last_only) for message in messages]
        return self._join_heads(torch.cat(contexts, dim=2))[0]

    def _attend_heads(self, queries, keys, values, mask=None, causal=False) -> torch.Tensor:
        """PyTorch's fused kernel: (batch, n_heads, tokens, head_dim) each, and so the result."""
        return F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            is_causal=causal,
            dropout_p=self.drop_rate if self.training else 0.0,
        )

    def _split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, emb_dim) -> (batch, n_heads, tokens, head_dim)"""
        return x.unflatten(-1, (self.n_heads, self.head_dim)).transpose(1, 2)

    @staticmethod
    def _join_heads(x: torch.Tensor) -> torch.Tensor:
        """(batch, n_heads, tokens, head_dim) -> (batch, tokens, emb_dim)"""
        return x.transpose(1, 2).flatten(2)
