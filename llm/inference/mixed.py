"""One batch, several adapters: layers and a head that treat each group of rows in its own way."""

import torch
from torch import nn

from llm.lora.layer import LinearWithLoRA


class MixedLinear(nn.Module):
    """A frozen Linear with another update for each slice of its input, (..., in) -> (..., out).

    Args:
        linear: applied to everything.
        layers: one of this Linear for each group of messages; None: the group leaves it as it is.
        messages, tokens: how many messages and tokens belong to each group.
    """

    def __init__(
        self,
        linear: nn.Linear,
        layers: list[LinearWithLoRA | None],
        messages: list[int],
        tokens: list[int],
    ):
        super().__init__()
        self.linear, self.layers = linear, layers
        self.messages, self.tokens = messages, tokens

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Packed tokens, padded rows, or one token a message (the last block's last tokens)."""
        y = self.linear(x)
        rows, outs = x.flatten(0, 1), y.flatten(0, 1)  # `outs` is a view of y
        if len(rows) == sum(self.tokens):
            sizes = self.tokens
        else:  # as many tokens for each message: padded rows, or one
            sizes = [count * len(rows) // sum(self.messages) for count in self.messages]
        for layer, part, out in zip(self.layers, rows.split(sizes), outs.split(sizes)):
            if layer is not None:
                out += layer.update(part, out)  # this changes y
        return y


class MixedHead(nn.Module):
    """Each group of messages through its own head, (messages, emb_dim) -> (messages, 2)."""

    def __init__(self, heads: list[nn.Module], messages: list[int]):
        super().__init__()
        self.heads, self.messages = heads, messages

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Group by group."""
        return torch.cat([head(rows) for head, rows in zip(self.heads, x.split(self.messages))])
