"""y = x W^T + b + scale * (x A) B for several layers at once, forward and backward, in few passes.

What `llm.lora.fused` and `llm.lora.fused_dora` are made of; the former says which passes are saved.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from llm.lora.fused_compiled import joined_lora_linears
from llm.lora.quantized_linear import product_dtype


def fused_outputs(layers: Sequence, x: torch.Tensor) -> tuple:
    """What each of several fusible layers of one scale makes of the same x.

    Args:
        layers: with `parts()`, their W, b, A and B as `lora_linears` takes them, and `finish(y)`.
    """
    dtype = product_dtype(x)
    room = getattr(layers[0], "room", None)  # `llm.lora.room`
    if room is not None and torch.compiler.is_compiling() and room.fits(len(layers), dtype):
        return room(x.to(dtype), layers)
    tensors = [
        [
            tensor.to(dtype) if torch.is_tensor(tensor) else tensor  # no bias; W made anew
            for tensor in layer.parts()
        ]
        for layer in layers
    ]
    outputs = lora_linears(x.to(dtype), layers[0].lora.scale, tensors)
    return tuple(layer.finish(y) for layer, y in zip(layers, outputs))


def lora_linears(x: torch.Tensor, scale: float, layers: Sequence[tuple]) -> tuple:
    """y = x W^T + b + scale * (x A) B for each of several layers that read the same x.

    Args:
        x: (..., in)
        layers: (W, b, A, B) of each: (out, in), (out,) or None, (in, rank), (rank, out). W and b
            are taken as frozen: they get no gradient. W may be an object whose `numbers(dtype)`
            makes it for a product, as a QuantizedWeight does; then that is what is kept.

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
        in_codes = [None if torch.is_tensor(weight) else weight for weight in weights]
        kept = [weight if code is None else None for weight, code in zip(weights, in_codes)]
        ctx.save_for_backward(rows, low, A, *kept, *Bs)
        ctx.in_codes = in_codes
        ctx.scale, ctx.shape, ctx.ranks = scale, x.shape, [len(B) for B in Bs]
        outputs = []
        for weight, bias, B, low_i in zip(weights, biases, Bs, low.split(ctx.ranks)):
            y = F.linear(rows, _numbers(weight, x.dtype), bias).addmm_(low_i.T, B)
            outputs.append(y.view(*x.shape[:-1], B.shape[1]))  # y is (all_tokens, out)
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
            for grad, weight, in_codes in zip(grads, weights, ctx.in_codes):
                grad_x = grad_x.addmm_(
                    grad, _numbers(weight if in_codes is None else in_codes, grad.dtype)
                )
            grad_x = grad_x.view(ctx.shape)
        if needs_A:
            grad_As = (grad_low @ rows).T.split(ctx.ranks, dim=1)  # (in, rank) each
        if needs_B:
            grad_Bs = [low_i @ grad for low_i, grad in zip(low.split(ctx.ranks), grads)]
        of_layers = [(None, None, grad_A, grad_B) for grad_A, grad_B in zip(grad_As, grad_Bs)]
        return grad_x, None, *sum(of_layers, ())


def _numbers(weight, dtype: torch.dtype) -> torch.Tensor:
    """W (out, in), made anew where something else is kept."""
    return weight if torch.is_tensor(weight) else weight.numbers(dtype)
