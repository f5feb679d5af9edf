"""LoRA layers in as few passes over memory as can be; the numbers are those of the plain form.

`LinearWithLoRA` in `llm.lora.layer` is the form to read. LoRA has a third less arithmetic than
training W itself, but at small widths that form loses a good part of it again: it writes x A B and
the sum as tensors of their own and reads them again, forward and backward. Here instead

* `addmm_` adds a product into a tensor that is there already;
* layers that read the same x (query, key and value) share one product with their A matrices side
  by side, and one with its transpose for the gradient of A;
* nothing is computed for the frozen W, and of the activations only x is kept, and x A, which is
  rank numbers a token;
* of a W that is kept in few bits (`llm.lora.quantized_linear`) the codes are kept, and each product
  makes W anew;
* thin products are taken in the order in which the CPU's matrix library is fast: for 1,062 tokens
  of width 1,024 at rank 8, (gradient.T @ x).T takes 0.3 ms, x.T @ gradient 1.8 ms.

`fuse` puts these forms in place of the plain ones; fine-tuning does so (`llm.lora.methods`).
`llm.lora.fused_compiled` is the form for PyTorch's compiler.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from llm.lora.dora import LinearWithDoRA
from llm.lora.fused_compiled import joined_lora_linears
from llm.lora.fused_dora import FusedLinearWithDoRA
from llm.lora.layer import LinearWithLoRA
from llm.lora.quantized_linear import product_dtype
from llm.model.attention import MultiHeadAttention


def fuse(model: nn.Module) -> None:
    """Give every LoRA layer, and the attention above it, its fast form, in place.

    Only the class of the modules changes, so weights, names and references stay what they are.
    """
    for module in model.modules():
        if type(module) is LinearWithLoRA:
            module.__class__ = FusedLinearWithLoRA
        if type(module) is LinearWithDoRA:
            module.__class__ = FusedLinearWithDoRA
        if type(module) is MultiHeadAttention:
            module.__class__ = FusedAttention


class FusedLinearWithLoRA(LinearWithLoRA):
    """A LinearWithLoRA in fewer passes over memory."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out), the numbers of LinearWithLoRA."""
        return fused_outputs((self,), x)[0] if self.fusible else super().forward(x)

    @property
    def fusible(self) -> bool:
        """The fused form has no dropout and no gradient for W; the compiled one no W in codes."""
        base_trained = any(parameter.requires_grad for parameter in self.linear.parameters())
        in_codes = not isinstance(self.linear, nn.Linear)
        compiled = in_codes and torch.compiler.is_compiling()
        return not (self.merged or self.lora.drops or base_trained or compiled)


class FusedAttention(MultiHeadAttention):
    """Attention whose query, key and value layers share the work of x A.

    Adapters exchange layers, so what they are is looked up at each call.
    """

    def project(self, x: torch.Tensor, layers: Sequence[nn.Module]) -> Sequence[torch.Tensor]:
        """What each layer makes of the same x: (batch, tokens, emb_dim), one a layer."""
        fusible = all(isinstance(layer, FusedLinearWithLoRA) and layer.fusible for layer in layers)
        if fusible and len({layer.lora.scale for layer in layers}) == 1:
            return fused_outputs(layers, x)
        return super().project(x, layers)


def fused_outputs(layers: Sequence[FusedLinearWithLoRA], x: torch.Tensor) -> tuple:
    """What each of several fusible layers of one scale makes of the same x."""
    dtype = product_dtype(x)
    tensors = [
        [
            tensor.to(dtype) if torch.is_tensor(tensor) else tensor  # no bias; W in codes
            for tensor in (layer.linear.weight, layer.linear.bias, *layer.lora.factors())
        ]
        for layer in layers
    ]
    return lora_linears(x.to(dtype), layers[0].lora.scale, tensors)


def lora_linears(x: torch.Tensor, scale: float, layers: Sequence[tuple]) -> tuple:
    """y = x W^T + b + scale * (x A) B for each of several layers that read the same x.

    Args:
        x: (..., in)
        layers: (W, b, A, B) of each: (out, in), (out,) or None, (in, rank), (rank, out). W and b
            are taken as frozen: they get no gradient. W may be a QuantizedWeight.

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
    """W (out, in), made of its codes where it is kept in them."""
    return weight if torch.is_tensor(weight) else weight.numbers(dtype)
