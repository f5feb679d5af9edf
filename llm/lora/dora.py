"""DoRA: how long each row of W is, learned apart from where it points.

Full fine-tuning often turns a row of W without stretching it, or the other way round; an update
A B of low rank changes both at once. DoRA keeps one number m an output beside A and B, the length
of that output's row, and lets A and B change the direction alone:

    W' = m * V / ||V||,    V = W + (alpha / rank) (A B)^T,

    V (out, in), ||V|| (out,) the length of each row, m (out,), which starts as ||W||: at first
    W' is W. For a 768 x 768 layer at rank 16, A and B have 24,576 numbers, and m 768 more.

Source: Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation", sections 4.1 to 4.3. The
paper writes W transposed to PyTorch's, so what it calls a column is a row here: the weights that
make one output.

Three things to know:

* ||V|| changes with A and B, but counts as a constant in the gradient (section 4.3, equation 11):
  nothing has then to be kept to differentiate a norm, and the paper measured no loss by it. With
  g = m / ||V||, A and B get LoRA's gradients times g, and m gets that of y's part times 1 / ||V||.
* ||V|| needs no V, which would be a product as large as W at every step. A row of V is w + s u,
  with u = b A^T for that row's b of B^T, so

      ||w + s u||^2 = ||w||^2 + 2 s w.u + s^2 u.u = ||w||^2 + 2 s (w A).b + s^2 (b A^T A).b

  and W A costs as much as sending `rank` more tokens through the layer.
* Merging is exact: W' is one matrix, like LoRA's.
"""

import torch
import torch.nn.functional as F
from torch import nn

from llm.lora.layer import LinearWithLoRA, dense


class LinearWithDoRA(LinearWithLoRA):
    """A frozen `nn.Linear` with a learned length and direction a row, (..., in) -> (..., out).

    Arguments and A and B are those of LinearWithLoRA; m is `lora.magnitude`, (out,).
    `llm.lora.fused_dora` computes the same with fewer passes over memory.
    """

    def __init__(
        self,
        linear: nn.Linear,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        rslora: bool = False,
    ):
        super().__init__(linear, rank, alpha, dropout, rslora)
        A, B = self.lora.A, self.lora.B
        start = A.new_empty(B.shape[1]) if A.is_meta else self.norm()
        self.lora.magnitude = nn.Parameter(start)

    @torch.no_grad()
    def norm(self) -> torch.Tensor:
        """||V||, the length of each row of W + (alpha / rank) (A B)^T: (out,), a constant."""
        A, B, scale = self.lora.A, self.lora.B.T, self.lora.scale  # (in, rank), (out, rank)
        W = dense(self.linear).to(A.dtype)
        with torch.autocast(W.device.type, enabled=False):  # sums of squares need their digits
            squares = torch.linalg.vector_norm(W, dim=1).square()  # (out,)
            across = ((W @ A) * B).sum(1)
            within = ((B @ (A.T @ A)) * B).sum(1)
        total = squares + 2 * scale * across + scale**2 * within
        return total.clamp(min=torch.finfo(A.dtype).tiny).sqrt()  # a row of zeros: no 0 / 0

    def gain(self) -> torch.Tensor:
        """m / ||V||, what each output is multiplied by: (out,). At first exactly 1."""
        return self.lora.magnitude / self.norm()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """W' x + b; after a merge the frozen layer holds W' already."""
        y = self.linear(x)
        return y if self.merged else y + self.update(x, y)

    def update(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(g - 1) W x + g s (x A) B: added to y = W x + b it makes g (W x + s (x A) B) + b.

        With dropout, both terms are of the same x with numbers missing, and W x is computed anew.
        """
        if self.lora.drops:
            x = self.lora.dropout(x)
            y = F.linear(x, dense(self.linear).to(x.dtype))
        elif self.linear.bias is not None:
            y = y - self.linear.bias.to(y.dtype)
        gain = self.gain()
        A, B = self.lora.A.to(x.dtype), self.lora.B.to(x.dtype)
        low = self.lora.scale * (x @ A @ B)  # (..., out)
        return (gain - 1).to(y.dtype) * y + gain.to(y.dtype) * low

    def merged_weight(self) -> torch.Tensor:
        """W', (out, in), while it is not merged."""
        weight = dense(self.linear)
        return (self.gain()[:, None] * (weight + self.lora.delta())).to(weight.dtype)

    @torch.no_grad()
    def merge(self) -> None:
        """See LinearWithLoRA."""
        gain = self.gain()
        super().merge()
        self._merged_gain = gain  # W' has lost ||V||: each of its rows is m long

    def _without_update(self) -> torch.Tensor:
        weight = self.linear.weight / self._merged_gain[:, None] - self.lora.delta()
        return weight.to(self.linear.weight.dtype)


@torch.no_grad()
def row_changes(before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
    """How much the rows of a matrix (out, in) were stretched and turned (as in section 3.2).

    Returns:
        the mean relative change of their lengths, and the mean of 1 - cosine of old and new rows.
    """
    old, new = before.norm(dim=1), after.norm(dim=1)  # (out,)
    cosine = F.cosine_similarity(before.double(), after.double(), dim=1)
    return ((new - old).abs() / old).mean().item(), (1 - cosine).mean().item()
