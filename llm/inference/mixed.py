"""One batch, several adapters: layers and a head that treat each group of rows in its own way."""

from functools import cached_property

import torch
from torch import nn

from llm.lora.dora import LinearWithDoRA
from llm.lora.layer import LinearWithLoRA

# With fewer rows than this for each adapter, batched products are quicker than one after another.
FEW = 8


class MixedLinear(nn.Module):
    """A frozen Linear with another update for each slice of its input, (..., in) -> (..., out).

    Whole messages have so many tokens that a product for each group of messages keeps a processor
    busy. With one new token a message, as in writing, the many small products cost more than W's.
    Then all A and all B stand in one tensor, a matrix a message, and two batched products do it
    (as in Punica, Chen et al. 2023, section 4, where they read A and B in place; these are copies,
    made once for all the tokens that are to be written).

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
        if len(rows) == len(self.owner) < FEW * len(self.layers) and self.plain:
            A, B = self.gathered
            low = torch.bmm(rows[:, None].to(A.dtype), A)  # (messages, 1, rank)
            return y + torch.bmm(low, B).view_as(y).to(y.dtype)
        if len(rows) == sum(self.tokens):
            sizes = self.tokens
        else:  # padded rows: as many tokens for each message
            sizes = [count * len(rows) // len(self.owner) for count in self.messages]
        for layer, part, out in zip(self.layers, rows.split(sizes), outs.split(sizes)):
            if layer is not None:
                out += layer.update(part, out)  # this changes y
        return y

    @cached_property
    def owner(self) -> list[int]:
        """The number of the group that each message belongs to."""
        return [group for group, count in enumerate(self.messages) for _ in range(count)]

    @cached_property
    def plain(self) -> bool:
        """Whether x A B is all that is added; DoRA changes what W gives, too."""
        return not any(isinstance(layer, LinearWithDoRA) for layer in self.layers)

    @cached_property
    def gathered(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A (messages, in, rank) and scale * B (messages, rank, out) of each message's group.

        Zeros fill up where a group has a smaller rank than the largest, or no update at all.
        """
        out_dim, in_dim = self.linear.weight.shape
        updates = {n: layer.lora for n, layer in enumerate(self.layers) if layer is not None}
        first = next(iter(updates.values()))
        rank = max(update.rank for update in updates.values())
        A = first.A.new_zeros(len(self.layers), in_dim, rank)
        B = first.B.new_zeros(len(self.layers), rank, out_dim)
        for group, update in updates.items():
            A[group, :, : update.rank] = update.A
            B[group, : update.rank] = update.scale * update.B
        if len(self.owner) == len(self.layers):
            return A, B
        return A[self.owner], B[self.owner]


class MixedHead(nn.Module):
    """Each group of messages through its own head, (messages, emb_dim) -> (messages, 2)."""

    def __init__(self, heads: list[nn.Module], messages: list[int]):
        super().__init__()
        self.heads, self.messages = heads, messages

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Group by group."""
        return torch.cat([head(rows) for head, rows in zip(self.heads, x.split(self.messages))])
