"""PiSSA: A and B start as the strongest part of W, not from nothing.

LoRA starts at B = 0, where A has no gradient and the first steps only look for a direction. PiSSA
starts in the directions that matter most to W itself: of its singular values and vectors,
W = U S V^T, the first `rank`,

    scale * (A0 B0)^T = U_r S_r V_r^T,    A0 = V_r sqrt(S_r / scale),  B0 = sqrt(S_r / scale) U_r^T,

and trains them, while the rest of W is frozen. At the start nothing is changed: the part that A
and B stand for is taken out of W.

Source: Meng et al. 2024, "PiSSA: Principal Singular Values and Singular Vectors Adaptation of
Large Language Models", section 3, equations 2 to 4.

The paper writes the rest, W - scale (A0 B0)^T, in the place of W. Here W stays as it is, bit for
bit, as LoRA promises, and the starting part is subtracted beside it:

    y = x W^T + b + scale * (x A B - x A0 B0)

That is LoRA of twice the rank against the untouched W, with [A, A0] for A, and B above -B0 for B:
as such it is saved (`as_plain_lora`, section 3 and appendix of the paper: "lossless conversion").
So it loads, merges and goes to `peft` like any other adapter, and several of them share a base.
"""

import math
from dataclasses import replace

import torch
from torch import nn

from llm.lora.layer import LinearWithLoRA, LoRALayer, dense
from llm.lora.settings import LoRASettings


def principal_factors(
    W: torch.Tensor, rank: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A0 (in, rank) and B0 (rank, out) of W (out, in): scale * (A0 B0)^T is W's strongest part.

    No matrix of that rank is nearer to W (Eckart and Young 1936).
    """
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)  # (out, k), (k,), (k, in)
    root = (S[:rank] / scale).sqrt()
    return (root[:, None] * Vh[:rank]).T.contiguous(), (U[:, :rank] * root).T.contiguous()


class PiSSALayer(LoRALayer):
    """x -> scale * (x A B - x A0 B0), (..., in_dim) -> (..., out_dim). A0 and B0 are frozen.

    Args:
        W: (out, in), the layer's weights, whose strongest part A and B start as.
        others: as in LoRALayer. Dropout acts on what A is given, not on what A0 is.
    """

    def __init__(self, W: torch.Tensor, rank: int, alpha: float, dropout: float, rslora: bool):
        dtype = torch.promote_types(W.dtype, torch.float32)
        super().__init__(*W.shape[::-1], rank, alpha, dropout, rslora, dtype)
        if not W.is_meta:
            with torch.no_grad():
                A, B = principal_factors(W.to(dtype), rank, self.scale)
                self.A.copy_(A)
                self.B.copy_(B)
        self.register_buffer("A0", self.A.detach().clone())
        self.register_buffer("B0", self.B.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in_dim) -> (..., rank) twice -> (..., out_dim)"""
        A0, B0 = self.A0.to(x.dtype), self.B0.to(x.dtype)
        return super().forward(x) - self.scale * (x @ A0 @ B0)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[A, A0] (in_dim, 2 rank), and B above -B0 (2 rank, out_dim)."""
        return torch.cat([self.A, self.A0], dim=1), torch.cat([self.B, -self.B0])


def start_from_principal_part(layer: LinearWithLoRA) -> None:
    """Give a fresh LoRA layer PiSSA's start, in place. Its answers stay what they are."""
    lora, W = layer.lora, dense(layer.linear)
    with W.device:
        layer.lora = PiSSALayer(W, lora.rank, lora.alpha, lora.dropout.p, lora.rslora)
    layer.lora.train(lora.training)


def as_plain_lora(model: nn.Module, settings: LoRASettings) -> LoRASettings:
    """Turn PiSSA's updates into plain LoRA of twice the rank, in place; the sums stay the same.

    Args:
        settings: that the model's layers were made with.

    Returns:
        the settings that they would be made with now: twice the rank, and an alpha that leaves
        the scale as it is. Others than PiSSA's come back as they are.
    """
    if settings.init != "pissa":
        return settings
    factor = math.sqrt(2) if settings.rslora else 2  # scale is alpha / rank, or alpha / sqrt(rank)
    for layer in model.modules():
        if isinstance(layer, LinearWithLoRA) and isinstance(layer.lora, PiSSALayer):
            old, (A, B) = layer.lora, layer.lora.factors()
            sizes = (len(A), B.shape[1], 2 * old.rank, factor * old.alpha)
            with A.device:
                layer.lora = LoRALayer(*sizes, old.dropout.p, old.rslora, A.dtype)
            layer.lora.A.data, layer.lora.B.data = A.detach(), B.detach()
            layer.lora.train(old.training)
    pattern = {name: 2 * rank for name, rank in settings.rank_pattern.items()}
    twice = {"rank": 2 * settings.rank, "alpha": factor * settings.alpha, "rank_pattern": pattern}
    return replace(settings, init="default", **twice)
