"""DoRA in few passes over memory: LoRA's fused form with every row of W and B times its gain.

With g = m / ||V||, y = x (g W)^T + scale * (x A) (B g) + b is LoRA with g W for W and B g for B, so
`llm.lora.fused_linears` computes it, the x A that query, key and value share included;
`llm.lora.dora` has the form to read. g W is made for each product and forgotten, like a W in codes,
and may be made of one. A and B learn through B g, and g counts as a constant there. The gradient of
m asks for what y has of V alone, (y - b) / g: y is there already, and the layers around keep most
of those anyway, so nothing else is kept that LoRA does not keep.
"""

import torch
from torch.autograd.function import once_differentiable

from llm.lora.dora import LinearWithDoRA
from llm.lora.fused_linears import fused_outputs


class FusedLinearWithDoRA(LinearWithDoRA):
    """A LinearWithDoRA in fewer passes over memory."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out), the numbers of LinearWithDoRA."""
        return fused_outputs((self,), x)[0] if self.fusible else super().forward(x)

    @property
    def fusible(self) -> bool:
        """The fused form has no dropout, no gradient for W, and is not for the compiler."""
        trained = any(parameter.requires_grad for parameter in self.linear.parameters())
        compiled = torch.compiler.is_compiling()
        return not (self.merged or self.lora.drops or trained or compiled)

    def parts(self) -> tuple:
        """g W, b, A and B g: see `llm.lora.fused_linears`."""
        gain = self.gain().detach()  # (out,)
        A, B = self.lora.factors()
        return _Stretched(self.linear.weight, gain), self.linear.bias, A, B * gain

    def finish(self, y: torch.Tensor) -> torch.Tensor:
        """y as it is; m learns from it."""
        return _LearnMagnitude.apply(y, self.lora.magnitude, self.linear.bias)


class _Stretched:
    """g W, (out, in), which is made when it is asked for."""

    def __init__(self, weight, gain: torch.Tensor):
        self.weight, self.gain = weight, gain

    def numbers(self, dtype: torch.dtype) -> torch.Tensor:
        """In the dtype of a product."""
        weight = self.weight
        weight = weight.to(dtype) if torch.is_tensor(weight) else weight.numbers(dtype)
        return weight * self.gain.to(dtype)[:, None]


class _LearnMagnitude(torch.autograd.Function):
    """y -> y; the gradient of m is that of y times (y - b) / m, since y - b is m V x / ||V||."""

    @staticmethod
    def forward(ctx, y, m, bias):
        ctx.save_for_backward(y, m, bias)
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        y, m, bias = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])  # (all_tokens, out)
        along = (rows * y.reshape(rows.shape)).sum(0, dtype=m.dtype)  # (out,)
        if bias is not None:
            along = along - rows.sum(0, dtype=m.dtype) * bias.to(m.dtype)
        return grad, along / m, None
