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

`fuse` puts these forms in place of the plain ones; fine-tuning does so (`llm.lora.methods`). The
products themselves are in `llm.lora.fused_linears`, and what DoRA adds in `llm.lora.fused_dora`.
`llm.lora.fused_compiled` is the form for PyTorch's compiler.
"""

from collections.abc import Sequence

import torch
from torch import nn

from llm.lora.dora import LinearWithDoRA
from llm.lora.fused_dora import FusedLinearWithDoRA
from llm.lora.fused_linears import fused_outputs
from llm.lora.layer import LinearWithLoRA
from llm.lora.quantized_linear import product_dtype
from llm.model.attention import Attend, MultiHeadAttention, causal
from llm.model.short_attention import short_attention, suits


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

    def parts(self) -> tuple:
        """W, b, A and B: see `llm.lora.fused_linears`."""
        return (self.linear.weight, self.linear.bias, *self.lora.factors())

    def finish(self, y: torch.Tensor) -> torch.Tensor:
        """Nothing is left to do."""
        return y


class FusedAttention(MultiHeadAttention):
    """Attention whose query, key and value layers share the work of x A.

    Adapters exchange layers, so what they are is looked up at each call.
    """

    def forward(self, x: torch.Tensor, attend: Attend = causal) -> torch.Tensor:
        """As MultiHeadAttention; on a GPU, compiled, a kernel of its own for short rows."""
        layers = (self.W_query, self.W_key, self.W_value)
        room = getattr(layers[0], "room", None)
        dropped = self.training and self.drop_rate
        if room is None or attend is not causal or dropped or not torch.compiler.is_compiling():
            return super().forward(x, attend)
        dtype = product_dtype(x)
        if not (room.fits(3, dtype) and suits(x, dtype, self.head_dim)):
            return super().forward(x, attend)
        (qkv,) = room(x.to(dtype), layers, joined=True)  # (batch, tokens, 3 * emb_dim)
        return self.out_proj(short_attention(qkv, self.n_heads))

    def project(self, x: torch.Tensor, layers: Sequence[nn.Module]) -> Sequence[torch.Tensor]:
        """What each layer makes of the same x: (batch, tokens, emb_dim), one a layer."""
        kinds = (FusedLinearWithLoRA, FusedLinearWithDoRA)
        fusible = all(isinstance(layer, kinds) and layer.fusible for layer in layers)
        if fusible and len({layer.lora.scale for layer in layers}) == 1:
            return fused_outputs(layers, x)
        return super().project(x, layers)
