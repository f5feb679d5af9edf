"""DoRA in few passes over memory: LoRA's fused form with every row of W and B times its gain.

With g = m / ||V||, y = x (g W)^T + scale * (x A) (B g) + b is LoRA with g W for W and B g for B, so
it takes no more passes than that; `llm.lora.dora` has the form to read. g W is made for the product
and forgotten, and the backward pass multiplies the gradient of y by g in its place. The gradient of
m asks for what y has of V alone, which is (y - b) / g: y is there already, so nothing is kept that
LoRA does not keep but y, and the layers around keep most of those anyway.
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from llm.lora.dora import LinearWithDoRA


class FusedLinearWithDoRA(LinearWithDoRA):
    """A LinearWithDoRA in fewer passes over memory."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out), the numbers of LinearWithDoRA."""
        if not self.fusible:
            return super().forward(x)
        kind = x.device.type
        low_precision = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if low_precision else x.dtype
        W, bias = self.linear.weight.to(dtype), self.linear.bias
        A, B = self.lora.A.to(dtype), self.lora.B.to(dtype)
        bias = torch.zeros_like(W[:, 0]) if bias is None else bias.to(dtype)
        m, norm = self.lora.magnitude, self.norm()
        return _DoRALinear.apply(x.to(dtype), self.lora.scale, W, bias, A, B, m, norm)

    @property
    def fusible(self) -> bool:
        """The fused form has no dropout, no gradient for W, and no W in codes."""
        plain = isinstance(self.linear, torch.nn.Linear)
        trained = any(parameter.requires_grad for parameter in self.linear.parameters())
        return plain and not (self.merged or self.lora.drops or trained)


class _DoRALinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, W, bias, A, B, m, norm):
        rows = x.reshape(-1, x.shape[-1])  # (all_tokens, in)
        gain = (m / norm).to(x.dtype)  # (out,)
        low = (A.T @ rows.T) * scale  # x A, scaled and transposed: (rank, all_tokens)
        y = F.linear(rows, W * gain[:, None], bias).addmm_(low.T, B * gain)
        y = y.view(*x.shape[:-1], len(W))
        ctx.save_for_backward(rows, low, y, W, bias, A, B, m, gain)
        ctx.scale, ctx.shape = scale, x.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        rows, low, y, W, bias, A, B, m, gain = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])  # (all_tokens, out)
        grad_m = ((grad * (y.view_as(grad) - bias)).sum(0) / m).to(
            m.dtype
        )  # y - b is m V x / ||V||
        grad = grad * gain
        grad_low = (B @ grad.T) * ctx.scale  # (rank, all_tokens)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad_low.T @ A.T).addmm_(grad, W).view(ctx.shape)
        grad_A, grad_B = (grad_low @ rows).T, low @ grad
        return grad_x, None, None, None, grad_A, grad_B, grad_m, None
