"""LoRA: leave the pretrained weight matrix W alone, learn a low-rank update beside it.

    y = x W^T + b + (alpha / rank) * (x A B)

          x (in) ------ W, frozen: out x in ------.
             \\                                     (+)--> y (out)
              `-- A: in x rank -- B: rank x out --'

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
Worked numbers, for a 768 x 768 layer of GPT-2 at rank 16: W has 589,824 weights, A and B have
768 * 16 + 16 * 768 = 24,576, which is 4.2 %.
"""

import math

import torch
from torch import nn

from llm.lora.settings import check_settings
from llm.utils.errors import InputError


def dense(linear: nn.Module) -> torch.Tensor:
    """W of a frozen layer as a matrix of numbers, (out, in), whichever way it is kept."""
    weight = linear.weight
    return weight if isinstance(weight, torch.Tensor) else weight.dequantize()


class LoRALayer(nn.Module):
    """The update alone: x -> scale * (x A B), (..., in_dim) -> (..., out_dim).

    A starts from random numbers, B from zeros, so the update starts at exactly zero: a model with
    fresh LoRA layers answers as it did without them, and still B has a gradient to leave zero by.

    A is drawn uniformly from +-1/sqrt(in_dim), Kaiming's rule for the fan-in of the layer, as
    loralib and peft do. The book (Raschka 2024, appendix E) stores A as (in_dim, rank) too but
    hands that to PyTorch's `kaiming_uniform_`, which takes the second number, the rank, for the
    fan-in: for 768 inputs and rank 16 it draws from +-0.25 in place of +-0.036, 6.9 times wider.
    Hence the `.T` below.

    Args:
        in_dim, out_dim: of the layer that is adapted.
        rank: columns of A and rows of B.
        alpha: strength of the update. The scale is alpha / rank, so that a change of rank does
            not change the strength; the book's first code multiplied by alpha alone, which at
            rank 16 learns 16 times as hard: alpha = 16 there is alpha = 256 here.
        dropout: share of the inputs to A that is zeroed while training.
        rslora: scale by alpha / sqrt(rank) instead (Kalajdzievski 2023, "rsLoRA").
        dtype: of A and B.

    Raises InputError when a setting is out of its range.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        rslora: bool = False,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_settings(rank, alpha, dropout)
        self.rank, self.alpha, self.rslora = rank, alpha, rslora
        self.scale = alpha / math.sqrt(rank) if rslora else alpha / rank
        self.A = nn.Parameter(torch.empty(in_dim, rank, dtype=dtype))
        self.B = nn.Parameter(torch.zeros(rank, out_dim, dtype=dtype))
        nn.init.kaiming_uniform_(self.A.T, a=math.sqrt(5))  # +-1/sqrt(in_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in_dim) -> (..., rank) -> (..., out_dim)"""
        A, B = self.A.to(x.dtype), self.B.to(x.dtype)
        return self.scale * (self.dropout(x) @ A @ B)

    @property
    def drops(self) -> bool:
        """Whether dropout acts now."""
        return self.training and self.dropout.p > 0

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The two matrices whose product is the update: (in_dim, rank), (rank, out_dim)."""
        return self.A, self.B

    def delta(self) -> torch.Tensor:
        """The update as one matrix in the layout of `nn.Linear.weight`, (out_dim, in_dim)."""
        A, B = self.factors()
        return self.scale * (A @ B).T


class LinearWithLoRA(nn.Module):
    """A frozen `nn.Linear` with a trainable LoRALayer beside it, (..., in) -> (..., out).

    `llm.lora.fused` computes the same with fewer passes over memory.
    """

    def __init__(
        self,
        linear: nn.Linear,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        rslora: bool = False,
    ):
        super().__init__()
        if isinstance(linear, LinearWithLoRA):
            raise InputError("this layer has a LoRA layer already; merge or remove it first")
        out_dim, in_dim = linear.weight.shape
        self.linear = linear
        # A frozen W may be kept in bfloat16; what is trained needs float32 for its small steps.
        dtype = torch.promote_types(linear.weight.dtype, torch.float32)
        with linear.weight.device:  # A and B live where the layer lives, "meta" included
            self.lora = LoRALayer(in_dim, out_dim, rank, alpha, dropout, rslora, dtype)
        self.train(linear.training)  # in a model that evaluates, no dropout
        self.merged = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The frozen layer plus the update, which W itself holds after a merge."""
        if self.merged:
            return self.linear(x)
        return self.linear(x) + self.lora(x)

    def update(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """What is added to y, which the frozen layer made of x: (..., out)."""
        return self.lora(x)

    def merged_weight(self) -> torch.Tensor:
        """W with the update in it, (out, in), while it is not merged."""
        weight = dense(self.linear)
        return weight + self.lora.delta().to(weight.dtype)

    @torch.no_grad()
    def merge(self) -> None:
        """Fold the update into W, so that inference costs what it did without LoRA.

        Raises InputError when it is merged already: adding the update twice is never wanted.
        """
        if self.merged:
            raise InputError("the LoRA layer is merged already; unmerge it first")
        merged = self.merged_weight()
        if not isinstance(self.linear, nn.Linear):  # codes of few bits have no room for the update
            self.linear = self.linear.dequantized()
        self.linear.weight.copy_(merged)
        self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the update out of W again; W comes back to rounding.

        Raises InputError when it is not merged.
        """
        if not self.merged:
            raise InputError("the LoRA layer is not merged; there is nothing to unmerge")
        self.linear.weight.copy_(self._without_update())
        self.merged = False

    def _without_update(self) -> torch.Tensor:
        """W as it was before the merge, to rounding."""
        return self.linear.weight - self.lora.delta().to(self.linear.weight.dtype)
