"""The parts of a transformer block, and the block: normalise, attend, normalise, transform.

GPT-2 normalises *before* each part (pre-LayerNorm) and adds the part's output to its input, so a
straight path leads from the embeddings to the output (Radford et al. 2019, section 2.3).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from llm.model.attention import Attend, MultiHeadAttention, causal
from llm.model.config import GPTConfig


def layer_norm_step_by_step(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float = 1e-5
) -> torch.Tensor:
    """LayerNorm written out (Ba et al. 2016): each token gets mean 0 and variance 1.

    x: (..., emb_dim); scale, shift: (emb_dim,). `LayerNorm` computes the same in one kernel.
    """
    mean = x.mean(dim=-1, keepdim=True)
    variance = x.var(dim=-1, keepdim=True, unbiased=False)
    return (x - mean) / torch.sqrt(variance + eps) * scale + shift


class LayerNorm(nn.Module):
    """LayerNorm with a learned scale and shift, (..., emb_dim) -> (..., emb_dim)."""

    eps = 1e-5

    def __init__(self, emb_dim: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See `layer_norm_step_by_step`."""
        return F.layer_norm(x, self.scale.shape, self.scale, self.shift, self.eps)


def gelu_step_by_step(x: torch.Tensor) -> torch.Tensor:
    """GPT-2's GELU written out (Hendrycks and Gimpel 2016, section 2, the tanh form)."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class GELU(nn.Module):
    """A smooth ReLU, element by element. See `gelu_step_by_step`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape -> the same shape."""
        return F.gelu(x, approximate="tanh")


class FeedForward(nn.Module):
    """Widen each token four times, bend, narrow again: (..., emb_dim) -> (..., emb_dim)."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.emb_dim, 4 * config.emb_dim)
        self.gelu = GELU()
        self.fc2 = nn.Linear(4 * config.emb_dim, config.emb_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Each token by itself."""
        return self.fc2(self.gelu(self.fc1(x)))  # (..., 4 * emb_dim) in between


class TransformerBlock(nn.Module):
    """One pre-LayerNorm block: tokens look at one another, then each is worked on by itself."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.norm1 = LayerNorm(config.emb_dim)
        self.att = MultiHeadAttention(config)
        self.norm2 = LayerNorm(config.emb_dim)
        self.ff = FeedForward(config)
        self.drop_shortcut = nn.Dropout(config.drop_rate)

    def forward(self, x: torch.Tensor, attend: Attend = causal) -> torch.Tensor:
        """(batch, tokens, emb_dim) -> the same shape; `attend` as in MultiHeadAttention."""
        x = x + self.drop_shortcut(self.att(self.norm1(x), attend))
        return x + self.drop_shortcut(self.ff(self.norm2(x)))
