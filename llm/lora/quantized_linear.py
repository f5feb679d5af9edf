"""A frozen Linear that keeps its W in 8 or 4 bits a weight: what makes LoRA into QLoRA.

    y = x dequantise(codes, scales)^T + b + scale * (x A B)

The numbers that are multiplied are float32 (or bfloat16), only what lies in memory between the
products is smaller. Each product makes its W from the codes, uses it and forgets it, in the
backward pass once more: kept for it, as PyTorch keeps what a product needs, all the matrices
together would be there again. So there is never more than one of them, at the price of making each
twice a step. A text written token by token pays most, since each token makes all of them: merged
(`python -m llm merge`) the model answers the same at LoRA's speed, in LoRA's memory.

No gradient goes to the codes: a step of 1e-4 is less than the way to the next of 16 levels. It goes
through them, to the x of the layers below, and A and B, in float32, learn beside them.

Source: Dettmers et al. 2023, "QLoRA", section 3, equations 5 and 6.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from llm.lora.quantize import QuantizedWeight, quantize_int8, quantize_nf4

KINDS = {"nf4": partial(quantize_nf4, double=True), "int8": quantize_int8}


class QuantizedLinear(nn.Module):
    """An `nn.Linear` whose weight is a QuantizedWeight, (..., in) -> (..., out). The bias stays.

    Args:
        linear: whose place it takes; its W is read and not kept.
        kind: "nf4" (blocks of 64, double quantisation) or "int8" (by row).
    """

    def __init__(self, linear: nn.Linear, kind: str):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight: QuantizedWeight = KINDS[kind](linear.weight)
        self.bias = linear.bias
        self.requires_grad_(False)
        self.train(linear.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the dequantised Linear makes of x, to the last bit."""
        dtype = product_dtype(x)
        bias = None if self.bias is None else self.bias.to(dtype)
        return _Product.apply(x.to(dtype), self.weight, bias)

    def dequantized(self) -> nn.Linear:
        """A plain Linear with the numbers that the codes stand for, and its own bias."""
        weight = self.weight.dequantize()
        with torch.device("meta"):
            linear = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=False)
        return linear.train(self.training)


class _Product(torch.autograd.Function):
    """x W^T + b; of W only the codes are kept for the backward pass."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.weight = weight
        return F.linear(x, weight.numbers(x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ ctx.weight.numbers(grad.dtype)
        return grad_x, None, None


def product_dtype(x: torch.Tensor) -> torch.dtype:
    """Under autocast all compute in its lower precision, else in that of the input."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def quantize_linears(model: nn.Module, kind: str) -> None:
    """Put a QuantizedLinear in the place of every Linear of the blocks, in place.

    A classifier's head stays as it is, since it is trained; so do embeddings and LayerNorms, which
    are no Linears. Matrix after matrix, so that only one is there twice.

    Args:
        kind: of KINDS.
    """
    for name, linear in list(model.named_modules()):
        if isinstance(linear, nn.Linear) and name != "head":
            _put(model, name, QuantizedLinear(linear, kind))


def dequantize_linears(model: nn.Module) -> None:
    """Put a plain Linear of the same numbers in the place of every QuantizedLinear, in place."""
    for name, layer in quantized_layers(model).items():
        _put(model, name, layer.dequantized())


@torch.no_grad()
def round_linears(model: nn.Module, kind: str) -> float:
    """Round W of every Linear of the blocks to what codes of `kind` can stand for, in place.

    Returns:
        how far that moves the weights: the length (Frobenius norm) of all differences together.
    """
    squares = 0.0
    for name, linear in model.named_modules():
        if isinstance(linear, nn.Linear) and name != "head":
            rounded = KINDS[kind](linear.weight).dequantize()
            squares += float((rounded - linear.weight).double().square().sum())
            linear.weight.copy_(rounded)
    return squares**0.5


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """The quantised layers of a model by their full name."""
    layers = model.named_modules()
    return {name: module for name, module in layers if isinstance(module, QuantizedLinear)}


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
