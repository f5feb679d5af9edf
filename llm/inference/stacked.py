"""A and B of several adapters in one tensor each, so that a few products do for all of them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from llm.lora.dora import LinearWithDoRA
from llm.lora.layer import LinearWithLoRA


class Update(NamedTuple):
    """What a LoRA layer adds, scale * (x A) B, at hand: to look it up in modules takes longer than
    to multiply by it."""

    layer: LinearWithLoRA
    A: torch.Tensor  # (rank, in), transposed
    B: torch.Tensor  # (rank, out)
    rank: int
    scale: float
    plain: bool  # whether that is all it does; DoRA changes what W gives, too

    @classmethod
    def of(cls, layer: LinearWithLoRA) -> "Update":
        """A and B are the layer's own, not copies."""
        lora, plain = layer.lora, not isinstance(layer, LinearWithDoRA)
        return cls(layer, lora.A.detach().T, lora.B.detach(), lora.rank, lora.scale, plain)


class Stack:
    """Copies of A and B of layers that read the same x, neighbouring groups' side by side.

    A group is the rows that belong to one adapter. Zeros fill up where its rank is smaller than
    the largest, or where it has no update.

    Args:
        updates: for each layer one a group, at least one of them not None.
        columns: as many groups are neighbours as give A so many columns, or each is alone.
        dtype: of the copies.
    """

    def __init__(
        self, updates: Sequence[Sequence[Update | None]], columns: int, dtype: torch.dtype
    ):
        first = next(filter(None, updates[0]))
        groups = len(updates[0])
        self.rank = max(update.rank for layer in updates for update in layer if update)
        self.scale = first.scale
        self.neighbours = k = min(max(1, columns // self.rank), groups)
        starts = range(0, groups, k)
        filled = [self._filled(layer, -groups % k) for layer in updates]  # by layer: As, Bs
        A = torch.cat([A for at in starts for As, _ in filled for A in As[at : at + k]]).to(dtype)
        Bs = [torch.cat(Bs).to(dtype) for _, Bs in filled]
        # (neighbourhoods, layers * neighbours * rank, in)
        self.A = A.view(len(starts), -1, A.shape[1])
        # (neighbourhoods, neighbours * rank, out), one a layer
        self.Bs = [B.view(len(starts), -1, B.shape[1]) for B in Bs]

    def _filled(self, layer: Sequence[Update | None], more: int) -> tuple[list, list]:
        """A and B of each group, all of the same rank and scale, and of `more` groups of zeros."""
        first = next(filter(None, layer))
        nothing = [matrix.new_zeros(self.rank, matrix.shape[1]) for matrix in (first.A, first.B)]
        As, Bs = [], []
        for update in layer:
            if update is None:
                A, B = nothing
            else:
                A, B = update.A, update.B
                if update.scale != self.scale:
                    B = B * (update.scale / self.scale)
                if missing := self.rank - update.rank:
                    A, B = F.pad(A, (0, 0, 0, missing)), F.pad(B, (0, 0, 0, missing))
            As.append(A)
            Bs.append(B)
        return As + [nothing[0]] * more, Bs + [nothing[1]] * more
