"""LoRA layers in as few passes over memory as can be; the numbers are those of the plain form.

`LinearWithLoRA.step_by_step` is the form to read. LoRA has a third less arithmetic than training W
itself, but at small widths this form loses a good part of that again: it writes x A B and the sum
as tensors of their own and reads them again, forward and backward. Here instead

* `addmm_` adds a product into a tensor that is there already;
* layers that read the same x (query, key and value) share one product with their A matrices side
  by side, and one with its transpose for the gradient of A;
* nothing is computed for the frozen W, and of the activations only x is kept, and x A, which is
  rank numbers a token;
* thin products are taken in the order in which the CPU's matrix library is fast: for 1,062 tokens
  of width 1,024 at rank 8, (gradient.T @ x).T takes 0.3 ms, x.T @ gradient 1.8 ms.

`llm.lora.fused_compiled` is the form for PyTorch's compiler.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from llm.lora.fused_compiled import joined_lora_linears


def lora_linears(x: torch.Tensor, scale: float, layers: Sequence[tuple]) -> tuple:
    """y = x W^T + b + scale * (x A) B for each of several layers that read the same x.

    Args:
        x: (..., in)
        layers: (W, b, A, B) of each: (out, in), (out,) or None, (in, rank), (rank, out). W and b
            are taken as frozen: they get no gradient.

    Returns:
        y (..., out) of each layer.
    """
    tensors = [tensor for layer in layers for tensor in layer]
    same = len({layer[1] is None for layer in layers}) == 1  # all have a bias, or none has
    if torch.compiler.is_compiling() and same:
        return joined_lora_linears(x, scale, tensors)
    return _LoRALinears.apply(x, scale, *tensors)


class _LoRALinears(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, *tensors):
        weights, biases, As, Bs = (tensors[kind::4] for kind in range(4))
        A = As[0] if len(As) == 1 else torch.cat(As, dim=1)  # (in, all ranks side by side)
        rows = x.reshape(-1, x.shape[-1])  # (all_tokens, in)
        low = (A.T @ rows.T) * scale  # x A, scaled and transposed: (all ranks, all_tokens)
        ctx.save_for_backward(rows, low, A, *weights, *Bs)
        ctx.scale, ctx.shape, ctx.ranks = scale, x.shape, [len(B) for B in Bs]
        outputs = []
        for weight, bias, B, low_i in zip(weights, biases, Bs, low.split(ctx.ranks)):
            y = F.linear(rows, weight, bias).addmm_(low_i.T, B)  # (all_tokens, out)
            outputs.append(y.view(*x.shape[:-1], len(weight)))
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        rows, low, A, *tensors = ctx.saved_tensors
        weights, Bs = tensors[: len(grads)], tensors[len(grads) :]
        grads = [grad.reshape(-1, grad.shape[-1]) for grad in grads]  # (all_tokens, out) each
        needs_x, *needs = ctx.needs_input_grad  # of x, scale, and four tensors a layer
        needs_A, needs_B = any(needs[3::4]), any(needs[4::4])
        grad_x, grad_As, grad_Bs = None, [None] * len(grads), [None] * len(grads)
        if needs_x or needs_A:
            grad_lows = [B @ grad.T for B, grad in zip(Bs, grads)]  # (rank, all_tokens) each
            grad_low = torch.cat(grad_lows) * ctx.scale  # (all ranks, all_tokens)
        if needs_x:
            grad_x = grad_low.T @ A.T  # (all_tokens, in)
            for grad, weight in zip(grads, weights):
                grad_x = grad_x.addmm_(grad, weight)
            grad_x = grad_x.view(ctx.shape)
        if needs_A:
            grad_As = (grad_low @ rows).T.split(ctx.ranks, dim=1)  # (in, rank) each
        if needs_B:
            grad_Bs = [low_i @ grad for low_i, grad in zip(low.split(ctx.ranks), grads)]
        of_layers = [(None, None, grad_A, grad_B) for grad_A, grad_B in zip(grad_As, grad_Bs)]
        return grad_x, None, *sum(of_layers, ())
