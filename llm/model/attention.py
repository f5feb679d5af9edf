"""Causal multi-head attention: the only layer in which one token looks at another.

Source: Vaswani et al. 2017, "Attention Is All You Need", sections 3.2.1 and 3.2.2.

Who may look at whom is handed in, as a function `attend(queries, keys, values, dropout_p)` of
tensors (batch, n_heads, tokens, head_dim). `causal` is the usual one. `llm.model.layouts` has one
for messages laid end to end, and in generation the cache of earlier keys and values is one.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from llm.model.config import GPTConfig

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]


def attention_step_by_step(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """Causal attention written out, to be read; `causal` computes the same faster.

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


def causal(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, dropout_p: float = 0.0
) -> torch.Tensor:
    """Every token attends to itself and to those before it, in PyTorch's fused kernel.

    Args:
        queries, keys, values: (batch, n_heads, tokens, head_dim) each.
        dropout_p: share of the attention weights that is zeroed.

    Returns:
        (batch, n_heads, tokens, head_dim)
    """
    return F.scaled_dot_product_attention(
        queries, keys, values, is_causal=True, dropout_p=dropout_p
    )


class MultiHeadAttention(nn.Module):
    """Multi-head self-attention with separate query, key, value and output layers."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.n_heads, self.head_dim = config.n_heads, config.head_dim
        self.W_query = nn.Linear(config.emb_dim, config.emb_dim)
        self.W_key = nn.Linear(config.emb_dim, config.emb_dim)
        self.W_value = nn.Linear(config.emb_dim, config.emb_dim)
        self.out_proj = nn.Linear(config.emb_dim, config.emb_dim)
        self.drop_rate = config.drop_rate

    def forward(self, x: torch.Tensor, attend: Attend = causal) -> torch.Tensor:
        """Let every token gather information from the tokens that `attend` shows it.

        (batch, tokens, emb_dim) -> the same shape.
        """
        queries, keys, values = self.project(x, (self.W_query, self.W_key, self.W_value))
        return self.combine(queries, keys, values, attend)

    def project(self, x: torch.Tensor, layers: Sequence[nn.Module]) -> Sequence[torch.Tensor]:
        """What each layer makes of the same x: (batch, tokens, emb_dim), one a layer."""
        return [layer(x) for layer in layers]

    def combine(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """All heads at once: (batch, tokens, emb_dim) each -> the shape of `queries`."""
        dropout_p = self.drop_rate if self.training else 0.0
        heads = map(self._split_heads, (queries, keys, values))
        return self.out_proj(self._join_heads(attend(*heads, dropout_p)))

    def _split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, emb_dim) -> (batch, n_heads, tokens, head_dim)"""
        return x.unflatten(-1, (self.n_heads, self.head_dim)).transpose(1, 2)

    @staticmethod
    def _join_heads(x: torch.Tensor) -> torch.Tensor:
        """(batch, n_heads, tokens, head_dim) -> (batch, tokens, emb_dim)"""
        return x.transpose(1, 2).flatten(2)
