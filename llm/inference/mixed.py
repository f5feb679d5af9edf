"""One batch, several adapters: layers and a head that treat each group of rows in its own way.

x W^T is one product for all. What the adapters add, (x A) B, is little arithmetic, but in many
pieces: two products for each of 100 adapters in each of 60 layers are 12,000, and the time it takes
to start them is a quarter of the batch's. So they are joined (`llm.inference.stacked`):

* Query, key and value read the same x, so their A stand side by side, as in `llm.lora.fused`.
* With as many tokens for each message, such as one new one in writing, A and B are a matrix a
  message, and two batched products do it (as in Punica, Chen et al. 2023, section 4, where they
  read A and B in place; these are copies). On a GPU, where messages are padded, it is always so.
* With messages end to end, a few neighbouring adapters' A stand side by side, and are one product
  with the tokens of all of them. Of what comes out each token keeps what its own adapter's columns
  gave; the rest is multiplied by 0. Then their B, one below the other, are one product too:

                     A of a   A of b
      tokens of a  [  keep  |   0    ]     [ B of a ]
      tokens of b  [   0    |  keep  ]  x  [ B of b ]
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import nn

from llm.inference.stacked import Stack, Update
from llm.lora.fused import FusedAttention

# With fewer rows than this for each adapter, batched products are the quicker ones on a CPU.
FEW = 8
# Neighbours' A stand side by side up to so many columns: a quarter of the products at rank 4, and
# the arithmetic that is thrown away is still little beside W's.
COLUMNS = 16


class Groups:
    """Which rows of a batch belong to which group, group after group.

    Args:
        messages, tokens: how many messages and tokens belong to each group.
    """

    def __init__(self, messages: list[int], tokens: list[int]):
        self.messages, self.tokens = messages, tokens
        self._kept: dict[tuple, object] = {}  # made once for all layers, or for all tokens to come

    def __len__(self) -> int:
        return len(self.messages)

    @cached_property
    def owner(self) -> list[int]:
        """The number of the group that each message belongs to."""
        return [group for group, count in enumerate(self.messages) for _ in range(count)]

    def sizes(self, rows: int) -> list[int]:
        """How many of so many rows belong to each group."""
        if rows == sum(self.tokens):  # messages end to end
            return self.tokens
        each = rows // len(self.owner)  # padded, or the last token of each message
        return [count * each for count in self.messages]

    def keep(self, key: tuple, make):
        """What `make()` gives, made once for each key."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


class MixedLinear(nn.Module):
    """A frozen Linear with another update for each group of rows, (..., in) -> (..., out).

    Args:
        linear: applied to everything.
        updates: one of this Linear for each group; None: the group leaves it as it is.
        groups: the same object for all layers of a model.
    """

    def __init__(self, linear: nn.Linear, updates: list[Update | None], groups: Groups):
        super().__init__()
        self.linear, self.updates, self.groups = linear, updates, groups
        self.plain = all(update is None or update.plain for update in updates)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Packed tokens, padded rows, or one token a message (the last block's last tokens)."""
        return mixed_outputs((self,), x)[0]


class MixedAttention(FusedAttention):
    """Attention whose query, key and value share the work of x A, of several adapters as of one."""

    def project(self, x: torch.Tensor, layers: Sequence[nn.Module]) -> Sequence[torch.Tensor]:
        """What each layer makes of the same x: (batch, tokens, emb_dim), one a layer."""
        if all(isinstance(layer, MixedLinear) and layer.plain for layer in layers):
            return mixed_outputs(tuple(layers), x)
        return super().project(x, layers)


def share_mixed(model: nn.Module) -> None:
    """Give a fused model's attention that form, in place."""
    for module in model.modules():
        if type(module) is FusedAttention:
            module.__class__ = MixedAttention


def mixed_outputs(layers: tuple[MixedLinear, ...], x: torch.Tensor) -> list[torch.Tensor]:
    """What layers of the same groups make of the same x: (..., out), one a layer.

    If they are several they must be `plain`.
    """
    groups = layers[0].groups
    ys = [layer.linear(x) for layer in layers]
    outs = [y.flatten(0, 1) for y in ys]  # views: what is added to them is added to ys
    rows = x.flatten(0, 1).to(outs[0].dtype)
    even = len(groups.owner) in (x.shape[0], len(rows))  # as many rows for each message
    if not layers[0].plain:
        sizes = groups.sizes(len(rows))
        for update, part, out in zip(layers[0].updates, rows.split(sizes), outs[0].split(sizes)):
            if update is not None:
                out += update.layer.update(part, out)
    elif len(groups) > 1 and even and (x.is_cuda or len(rows) < FEW * len(groups)):
        _add_by_message(layers, groups, rows, outs)
    else:
        _add_by_neighbours(layers, groups, rows, outs)
    return ys


def _add_by_message(
    layers: tuple[MixedLinear, ...], groups: Groups, rows: torch.Tensor, outs: list[torch.Tensor]
) -> None:
    """As many rows for each message: batched products."""

    def make() -> Stack:
        stack = Stack([layer.updates for layer in layers], 1, rows.dtype)
        if len(groups) < len(groups.owner):  # (messages, ...) in place of (groups, ...)
            owner = torch.tensor(groups.owner, device=rows.device)
            stack.A, stack.Bs = stack.A[owner], [B[owner] for B in stack.Bs]
        return stack

    stack = groups.keep(("by message", layers, rows.dtype), make)
    messages = len(groups.owner)
    low = torch.bmm(rows.view(messages, -1, rows.shape[1]), stack.A.transpose(1, 2))
    for out, low_of_one, B in zip(outs, low.split(stack.rank, dim=2), stack.Bs):
        out.view(messages, -1, out.shape[1]).baddbmm_(low_of_one, B, alpha=stack.scale)


def _add_by_neighbours(
    layers: tuple[MixedLinear, ...], groups: Groups, rows: torch.Tensor, outs: list[torch.Tensor]
) -> None:
    """Any number of rows for each group: a product for a few neighbours."""

    def make() -> Stack:
        return Stack([layer.updates for layer in layers], COLUMNS, rows.dtype)

    def own_columns() -> torch.Tensor:
        place = torch.arange(len(groups)) % k
        place = place.repeat_interleave(torch.tensor(sizes))[:, None]  # (rows, 1)
        own = torch.arange(k * stack.rank) // stack.rank == place
        return own[:, None].to(rows)  # (rows, 1, neighbours * rank)

    stack = groups.keep(("by neighbours", layers, rows.dtype), make)
    k, sizes = stack.neighbours, groups.sizes(len(rows))
    together = [sum(sizes[first : first + k]) for first in range(0, len(sizes), k)]
    parts = zip(rows.split(together), stack.A.transpose(1, 2))
    low = torch.cat([part @ A for part, A in parts])
    low = low.view(len(rows), len(layers), -1)  # (rows, layers, neighbours * rank)
    if k > 1:
        low *= groups.keep(("own columns", len(rows), k, stack.rank, rows.dtype), own_columns)
    for out, low_of_one, B in zip(outs, low.unbind(1), stack.Bs):
        for part, low_part, one in zip(out.split(together), low_of_one.split(together), B):
            part.addmm_(low_part, one, alpha=stack.scale)


class MixedHead(nn.Module):
    """Each group of messages through its own head, (messages, emb_dim) -> (messages, 2)."""

    def __init__(self, heads: list[nn.Module], groups: Groups):
        super().__init__()
        self.heads, self.groups = heads, groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One batched product where all are plain; else group by group."""
        if all(type(head) is nn.Linear for head in self.heads):
            weight = torch.stack([head.weight for head in self.heads])  # (groups, 2, emb_dim)
            bias = torch.stack([head.bias for head in self.heads])
            owner = torch.tensor(self.groups.owner, device=x.device)
            return torch.baddbmm(bias[owner, :, None], weight[owner], x[:, :, None])[:, :, 0]
        parts = x.split(self.groups.messages)
        return torch.cat([head(rows) for head, rows in zip(self.heads, parts)])
