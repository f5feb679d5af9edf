"""Frozen W with room for A and B at its edge: joined products whose W is not copied.

`llm.lora.fused_compiled` multiplies by [W, B^T] or by [W; A^T], and lays the two side by side anew
in every step: all of W is read and written twice a step, for the sake of a narrow edge. Here W
lives in the wider matrix as long as training lasts, and a step writes nothing but the edges, those
of all blocks at once. In the order of the blocks' layers:

* in < out (query, key and value together; fc1): [W, B^T], forward and backward, and A by itself;
* in > out (fc2): [W; A^T], forward and backward, and B by itself;
* in = out (out_proj): [W, B^T] forward and [W; A^T] backward, so W is there twice.

The numbers are those of the plain form, to rounding. For compiled blocks alone.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from llm.lora.fused import FusedLinearWithLoRA
from llm.lora.layer import LinearWithLoRA


class Room(nn.Module):
    """The matrices of layers that read the same x, in one block.

    Args:
        scale: of x A B.
        outs, ranks: of each layer.
        beside: (all outputs, in + all ranks), [W, B^T], or None.
        below: (all outputs + all ranks, in), [W; A^T], or None.
        A: (in, all ranks), times the scale.
        B: (all ranks, all outputs), zero where a row's layer is not the column's.
        bias: (all outputs,)
    """

    def __init__(self, scale, outs, ranks, beside, below, A, B, bias):
        super().__init__()
        self.scale, self.outs, self.ranks, self.n_in = scale, outs, ranks, len(A)
        matrices = {"beside": beside, "below": below, "A": A, "B": B, "bias": bias}
        for name, tensor in matrices.items():  # buffers, which the compiler takes as inputs
            self.register_buffer(name, tensor, persistent=False)

    def fits(self, layers: int, dtype: torch.dtype) -> bool:
        """Whether it is that of so many layers, for products in a precision."""
        return layers == len(self.outs) and self.bias.dtype == dtype

    def forward(
        self, x: torch.Tensor, layers: Sequence[LinearWithLoRA], joined: bool = False
    ) -> tuple:
        """(..., in) -> (..., out) of each layer; `joined`: one (..., all outputs)."""
        sizes = (self.scale, self.n_in, self.outs, self.ranks, joined)
        factors = [factor for layer in layers for factor in layer.lora.factors()]
        matrices = (self.beside, self.below, self.A, self.B, self.bias)
        return _Joined.apply(x, sizes, *matrices, *factors)


class _Joined(torch.autograd.Function):
    """A and B of the layers are given for their gradients; their numbers are read in the room."""

    @staticmethod
    def forward(ctx, x, sizes, beside, below, A, B, bias, *factors):
        ctx.sizes, ctx.shape = sizes, x.shape
        _, n_in, outs, _, joined = sizes
        rows = x.reshape(-1, n_in)  # (all_tokens, in)
        if beside is None:
            y, low = (rows @ below.T).split([sum(outs), len(B)], dim=1)
            y = y + low @ B
            y = y + bias
        else:
            low = rows @ A  # (all_tokens, all ranks)
            y = F.linear(torch.cat([rows, low], dim=1), beside, bias)
        ctx.save_for_backward(rows, low, beside, below, A, B)
        ctx.dtype = factors[0].dtype
        y = y.view(*x.shape[:-1], sum(outs))
        return (y,) if joined else tuple(y.split(outs, dim=-1))

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        rows, low, beside, below, A, B = ctx.saved_tensors
        scale, n_in, outs, ranks, _ = ctx.sizes
        grad = torch.cat(grads, dim=-1) if len(grads) > 1 else grads[0]
        grad = grad.reshape(-1, sum(outs))  # (all_tokens, all outputs)
        grad_x = None
        if below is None and ctx.needs_input_grad[0]:
            grad_x, grad_low = (grad @ beside).split([n_in, len(B)], dim=1)
            grad_x = grad_x + grad_low @ A.T
        else:
            grad_low = grad @ B.T  # (all_tokens, all ranks)
            if ctx.needs_input_grad[0]:
                grad_x = torch.cat([grad, grad_low], dim=1) @ below
        grad_x = None if grad_x is None else grad_x.view(ctx.shape)
        grad_As = (rows.T @ grad_low * scale).to(ctx.dtype).split(ranks, dim=1)  # (in, rank)
        strips = (low.T @ grad).to(ctx.dtype).split(ranks)  # (rank, all outputs) each
        grad_Bs = [strip.split(outs, dim=1)[i] for i, strip in enumerate(strips)]
        return (grad_x, *[None] * 6, *sum(zip(grad_As, grad_Bs), ()))


class _Kind:
    """Layers of one kind in all blocks: their rooms are slices of tensors over all of them.

    So A and B of all blocks are written in a few operations, not a few a block.

    Args:
        groups: of each block, the layers that read the same x.
    """

    def __init__(self, groups: list[Sequence[LinearWithLoRA]]):
        self.groups, first = groups, groups[0]
        lora, W = first[0].lora, first[0].linear.weight
        self.scale = lora.scale
        outs, ranks = [len(layer.linear.weight) for layer in first], [lora.rank] * len(first)
        n, n_in, n_out, n_ranks = len(groups), W.shape[1], sum(outs), sum(ranks)
        beside = W.new_zeros(n, n_out, n_in + n_ranks) if n_in <= n_out else None
        below = W.new_zeros(n, n_out + n_ranks, n_in) if n_in >= n_out else None
        # A view of an edge where there is one: what stands there is A or B, turned.
        A = W.new_zeros(n, n_in, n_ranks) if below is None else below[:, n_out:].mT
        B = W.new_zeros(n, n_ranks, n_out) if beside is None else beside[:, :, n_in:].mT
        for i, layers in enumerate(groups):
            bias = torch.cat([layer.linear.bias.data for layer in layers])
            wide, long = (None if both is None else both[i] for both in (beside, below))
            layers[0].room = Room(lora.scale, outs, ranks, wide, long, A[i], B[i], bias)
            for matrix in (long[:n_out] if below is not None else None, wide):
                if matrix is None:
                    continue
                for layer, rows in zip(layers, matrix[:, :n_in].split(outs)):
                    rows.copy_(layer.linear.weight.data)
                    layer.linear.weight.data = rows  # a view, so that W is kept once
        As, Bs = A.split(ranks, dim=2), B.split(ranks, dim=1)
        self.As = list(As)  # (blocks, in, rank) a layer
        self.Bs = [strip.split(outs, dim=2)[j] for j, strip in enumerate(Bs)]

    @torch.no_grad()
    def write(self) -> None:
        """Today's A and B."""
        for j, (A, B) in enumerate(zip(self.As, self.Bs)):
            factors = [layers[j].lora.factors() for layers in self.groups]
            scaled = torch.stack([A.detach() for A, _ in factors])
            A.copy_(scaled if self.scale == 1 else scaled * self.scale)
            B.copy_(torch.stack([B.detach() for _, B in factors]))

    def undo(self) -> None:
        """Give every layer a W of its own again."""
        for layers in self.groups:
            del layers[0].room
            for layer in layers:
                layer.linear.weight.data = layer.linear.weight.data.clone(
                    memory_format=torch.contiguous_format
                )


def make_room(model: nn.Module) -> Callable[[], None]:
    """Give the blocks' LoRA layers room, in place, where they can use it.

    From then on the edges are written whenever tokens are embedded, before the blocks read them.

    Returns:
        what takes the room away again; W is then what it was, bit for bit.
    """
    body = getattr(model, "body", model)
    groups: dict[tuple, list] = {}
    for block in body.trf_blocks:
        attention, ff = block.att, block.ff
        together = (attention.W_query, attention.W_key, attention.W_value)
        for place, layers in enumerate((together, (attention.out_proj,), (ff.fc1,), (ff.fc2,))):
            kinds = {_kind(layer) for layer in layers}
            if None not in kinds and len(kinds) == 1:
                groups.setdefault((place, *kinds), []).append(layers)
    kinds = [_Kind(found) for found in groups.values()]

    def write(*_) -> None:
        for kind in kinds:
            kind.write()

    hook = body.tok_emb.register_forward_pre_hook(write)

    def undo() -> None:
        hook.remove()
        for kind in kinds:
            kind.undo()

    return undo


def _kind(layer: nn.Module) -> tuple | None:
    """What layers must have in common; None where a layer can have no room."""
    if not (type(layer) is FusedLinearWithLoRA and layer.fusible):
        return None
    if not isinstance(layer.linear, nn.Linear):  # W in codes
        return None
    weight, bias = layer.linear.weight, layer.linear.bias
    if bias is None or bias.dtype != weight.dtype:
        return None
    return layer.lora.scale, layer.lora.rank, weight.shape, weight.dtype
