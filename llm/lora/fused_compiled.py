"""LoRA layers for a GPU and the compiler: the thin products ride along in the wide one.

x A and (x A) B have next to no arithmetic; a GPU spends their time on reading and writing the
activations beside them. Two ways to spare it, both of them one product in place of several:

* longer rows, where the input is the narrower side: the sum over `in` numbers goes on over the
  rank, so y is written once:      [x, x A] [W^T; B] = x W^T + (x A) B
* more columns, where the output is the narrower side, so x is read once:
                                   x [W^T, A] = [x W^T, x A]

The gradient of x has the same form with the parts turned round, g W + (g B^T) A^T, and needs the
same two matrices. Copying W beside A or B is cheap where there are more tokens than W has rows.
Layers that read the same x (query, key and value) become one.

Only under `torch.compile`, which writes LayerNorm's and GELU's results straight into the place
beside x A. Without it `llm.lora.fused` is used, on a GPU too.
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


def joined_lora_linears(x: torch.Tensor, scale: float, tensors: list) -> tuple:
    """What `llm.lora.fused.lora_linears` computes; its layers' tensors laid end to end."""
    return _JoinedLoRALinears.apply(x, scale, *tensors)


class _JoinedLoRALinears(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, *tensors):
        weights, biases, As, Bs = (tensors[kind::4] for kind in range(4))
        rows = x.reshape(-1, x.shape[-1])  # (all_tokens, in)
        A = torch.cat(As, dim=1) * scale  # (in, all ranks)
        B = torch.block_diag(*Bs) if len(Bs) > 1 else Bs[0]  # (all ranks, all outputs)
        bias = None if biases[0] is None else torch.cat(biases)
        n_in, n_out = rows.shape[1], B.shape[1]
        if n_in > n_out:
            both = F.linear(rows, _above(weights, A))  # (all_tokens, all outputs + all ranks)
            y, low = both.split([n_out, len(B)], dim=1)
            y = y + low @ B
            y = y if bias is None else y + bias
        else:
            low = rows @ A  # (all_tokens, all ranks)
            y = F.linear(torch.cat([rows, low], dim=1), _beside(weights, B), bias)
        ctx.save_for_backward(rows, low, A, B, *weights)
        ctx.scale, ctx.shape = scale, x.shape
        ctx.ranks, ctx.outs = [len(B) for B in Bs], [len(weight) for weight in weights]
        return tuple(y.view(*x.shape[:-1], n_out).split(ctx.outs, dim=-1))

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        rows, low, A, B, *weights = ctx.saved_tensors
        grad = torch.cat(grads, dim=-1) if len(grads) > 1 else grads[0]
        grad = grad.reshape(-1, grad.shape[-1])  # (all_tokens, all outputs)
        n_in, n_out = rows.shape[1], grad.shape[1]
        grad_x = None
        if ctx.needs_input_grad[0] and n_out > n_in:
            both = grad @ _beside(weights, B)  # (all_tokens, in + all ranks)
            grad_x, grad_low = both.split([n_in, len(B)], dim=1)
            grad_x = grad_x + grad_low @ A.T
        else:
            grad_low = grad @ B.T  # (all_tokens, all ranks)
            if ctx.needs_input_grad[0]:
                grad_x = torch.cat([grad, grad_low], dim=1) @ _above(weights, A)
        grad_As = (rows.T @ grad_low * ctx.scale).split(ctx.ranks, dim=1)  # (in, rank) each
        # The blocks beside the diagonal are computed and thrown away: reading is what takes time.
        strips = (low.T @ grad).split(ctx.ranks)  # (rank, all outputs) each
        grad_Bs = [strip.split(ctx.outs, dim=1)[i] for i, strip in enumerate(strips)]
        of_layers = [(None, None, grad_A, grad_B) for grad_A, grad_B in zip(grad_As, grad_Bs)]
        return None if grad_x is None else grad_x.view(ctx.shape), None, *sum(of_layers, ())


def _above(weights, A: torch.Tensor) -> torch.Tensor:
    """All W of (out, in), and A turned below them: (all outputs + all ranks, in)."""
    return torch.cat([*weights, A.T])


def _beside(weights, B: torch.Tensor) -> torch.Tensor:
    """All W of (out, in), and B turned to the right of them: (all outputs, in + all ranks)."""
    columns = B.T.split([len(weight) for weight in weights])
    return torch.cat([torch.cat(pair, dim=1) for pair in zip(weights, columns)])
