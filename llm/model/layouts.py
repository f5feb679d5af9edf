"""Messages of different lengths in one tensor: padded rows, or laid end to end.

A text message has some 30 tokens, the longest over 200. Two layouts put a batch of them into one
tensor (batch, tokens, emb_dim):

* `PaddedRows`: a row a message, filled up on the right. A GPU's time goes with the number of
  kernels started, so this is its layout.
* `Packed`: one row, (1, all_tokens, emb_dim), the messages end to end. A CPU's time goes with the
  number of tokens, so this is its layout: nothing is padded. All layers but attention treat each
  token by itself and do not notice; attention walks over the messages one by one.

The results are the same, to rounding. A layout says who attends to whom (`attend`), and where the
last real token of each message is: "real" matters, because a model that reads the last *padded*
token answers differently when a longer message stands in the same batch.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from llm.model.attention import causal
from llm.model.blocks import TransformerBlock
from llm.model.grouped_attention import attend_in_groups, is_short
from llm.model.groups import LengthGroups
from llm.utils.errors import InputError

if TYPE_CHECKING:
    from llm.model.gpt import GPTModel


class PaddedRows:
    """Messages padded on the right: (batch, tokens, emb_dim).

    Args:
        lengths: (batch,) real tokens in each row.
    """

    # No token looks to its right, where the padding is, so there is nothing to mask.
    attend = staticmethod(causal)

    def __init__(self, lengths: torch.Tensor):
        self.lengths = lengths

    def last(self, x: torch.Tensor) -> torch.Tensor:
        """The last real token of each message: (batch, tokens, emb_dim) -> (batch, 1, emb_dim)."""
        return x[torch.arange(len(x), device=x.device), self.lengths - 1, None]

    def attend_from_last(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        dropout_p: float = 0.0,
    ) -> torch.Tensor:
        """One query a message, (batch, n_heads, 1, head_dim), looks at its real tokens."""
        real = torch.arange(keys.shape[2], device=keys.device) < self.lengths[:, None]
        mask = real[:, None, None]  # (batch, 1, 1, tokens)
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, dropout_p=dropout_p
        )

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """The mean of each message's real tokens: (batch, tokens, emb_dim) -> (batch, emb_dim)."""
        real = torch.arange(x.shape[1], device=x.device) < self.lengths[:, None]
        return (x * real[..., None]).sum(1) / self.lengths[:, None]

    def next_tokens(self, x: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where a token follows in the same message: what stands there, and the token to come.

        Args:
            x: (batch, tokens, emb_dim). ids: (batch, tokens).

        Returns:
            (places, emb_dim), and (places,) ids: -100, which a loss leaves out, in the padding. A
            CUDA graph needs the same number of places each time.
        """
        follows = torch.arange(1, ids.shape[1], device=ids.device) < self.lengths[:, None]
        targets = ids[:, 1:].masked_fill(~follows, -100)
        return x[:, :-1].flatten(0, 1), targets.flatten()

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """A number for each place of `next_tokens`, added up by message: (places,) -> (batch,)."""
        return values.view(len(self.lengths), -1).sum(1)

    def messages(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Each message's real tokens: (batch, tokens, emb_dim) -> a list of (tokens, emb_dim)."""
        return [row[:length] for row, length in zip(x, self.lengths.tolist())]


class Packed:
    """Messages laid end to end: (1, all_tokens, emb_dim).

    Args:
        lengths: (batch,) tokens of each message.
        pad_to: what attention pads groups of messages to a multiple of (`llm.model.groups`).
    """

    def __init__(self, lengths: torch.Tensor, pad_to: int = 1):
        self.lengths, self.pad_to = lengths, pad_to

    @cached_property
    def _lengths(self) -> list[int]:
        return self.lengths.tolist()

    @cached_property
    def _groups(self) -> LengthGroups:
        return LengthGroups(self._lengths, self.pad_to)

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        dropout_p: float = 0.0,
    ) -> torch.Tensor:
        """Causal attention inside each message: (1, n_heads, all_tokens, head_dim) each.

        In a call for each group of messages of like length; `llm.model.groups` says why.
        """
        if len(self._lengths) == 1 and self.pad_to == 1:
            return causal(queries, keys, values, dropout_p)
        dtype = queries.dtype
        if self._by_products(queries, dropout_p):
            return attend_in_groups(queries, keys, values, self._groups)
        lower = dtype is torch.bfloat16 and not queries.is_cuda
        # A CPU's kernel for the backward pass takes six times as long in bfloat16 as in float32.
        with torch.autocast("cpu", enabled=False) if lower else nullcontext():
            tensors = [x.float() if lower else x for x in (queries, keys, values)]
            groups = zip(*(self._groups.split(x) for x in tensors))
            # No token looks to its right, where the padding is.
            return self._groups.join([causal(*group, dropout_p) for group in groups]).to(dtype)

    def _by_products(self, queries: torch.Tensor, dropout_p: float) -> bool:
        """Whether short messages are to be trained on, on a CPU; to read them stays as it is.

        Nor where a message has to get the same numbers in any company, to the last bit (`pad_to`):
        that is known of PyTorch's kernel alone.
        """
        return (
            queries.requires_grad
            and queries.device.type == "cpu"
            and queries.dtype in (torch.float32, torch.float64)
            and not (dropout_p or self.pad_to > 1 or torch.is_autocast_enabled("cpu"))
            and is_short(self._groups, queries)
        )

    def last(self, x: torch.Tensor) -> torch.Tensor:
        """The last token of each message: (1, all_tokens, emb_dim) -> (1, batch, emb_dim)."""
        return x[:, self.lengths.cumsum(0) - 1]  # message i ends where the lengths up to i add up

    def attend_from_last(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        dropout_p: float = 0.0,
    ) -> torch.Tensor:
        """One query a message, (1, n_heads, batch, head_dim), looks at its whole message."""
        messages = zip(
            queries.split(1, dim=2),
            keys.split(self._lengths, dim=2),
            values.split(self._lengths, dim=2),
        )
        contexts = [
            F.scaled_dot_product_attention(*message, dropout_p=dropout_p) for message in messages
        ]
        return torch.cat(contexts, dim=2)

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """The mean of each message's tokens: (1, all_tokens, emb_dim) -> (batch, emb_dim)."""
        message = torch.arange(len(self.lengths), device=x.device)
        whose = message.repeat_interleave(self.lengths)  # (all_tokens,) whose token each is
        ones = (message[:, None] == whose).to(x.dtype)  # (batch, all_tokens)
        return ones @ x[0] / self.lengths[:, None]

    def next_tokens(self, x: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where a token follows in the same message: what stands there, and the token to come.

        Args:
            x: (1, all_tokens, emb_dim). ids: (batch, longest), padded on the right.

        Returns:
            (places, emb_dim), and (places,) ids.
        """
        columns = torch.arange(ids.shape[1], device=ids.device)
        real = columns < self.lengths[:, None]  # (batch, longest)
        follows = (columns + 1 < self.lengths[:, None])[real]  # (all_tokens,)
        return x[0, follows], ids[:, 1:][real[:, 1:]]

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """A number for each place of `next_tokens`, added up by message: (places,) -> (batch,)."""
        parts = values.split([length - 1 for length in self._lengths])
        return torch.stack([part.sum() for part in parts])

    def messages(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """Each message's tokens: (1, all_tokens, emb_dim) -> a sequence of (tokens, emb_dim)."""
        return x[0].split(self._lengths)


Layout = PaddedRows | Packed


def lay_out(
    body: "GPTModel",
    ids: torch.Tensor,
    lengths: torch.Tensor,
    packed: bool | None = None,
    pad_to: int = 1,
) -> tuple[torch.Tensor, Layout]:
    """What enters the first block, (batch, tokens, emb_dim), and its layout.

    Args:
        ids: (batch, longest) token ids, padded on the right with any token.
        lengths: (batch,) real tokens in each row, at least 1.
        packed: chooses the layout; None: packed unless on a GPU.
        pad_to: see `Packed`.

    Raises:
        InputError: a row is longer than the context; `llm.data` cuts messages and documents.
    """
    if ids.shape[1] > body.config.context_length:
        raise InputError(
            f"a message of {ids.shape[1]} tokens does not fit into the context of "
            f"{body.config.context_length}; cut it"
        )
    positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    if ids.is_cuda if packed is None else not packed:
        return body.embed(ids, positions), PaddedRows(lengths)
    real = positions < lengths[:, None]  # (batch, longest)
    return body.embed(ids[real][None], positions[real][None]), Packed(lengths, pad_to)


def read_all(body: "GPTModel", x: torch.Tensor, layout: Layout, start: int = 0) -> torch.Tensor:
    """Every token after the final LayerNorm, in the shape of `x`.

    Args:
        x: (batch, tokens, emb_dim), what the first `start` blocks have made of the messages.
        layout: where the messages stand in it.
    """
    for block in body.trf_blocks[start:]:
        x = block(x, layout.attend)
    return body.final_norm(x)


def last_tokens_of_block(block: TransformerBlock, x: torch.Tensor, layout: Layout) -> torch.Tensor:
    """What a block makes of each message's last token, and of no other.

    Nobody reads the other tokens after the last block of a classifier, so only their keys and
    values are needed there: a third of the block's arithmetic in place of all of it.

    Args:
        x: in the layout's shape.

    Returns:
        (batch, 1, emb_dim) for padded rows, (1, batch, emb_dim) for packed messages.
    """
    normed, attention = block.norm1(x), block.att
    queries = attention.W_query(layout.last(normed))
    keys, values = attention.project(normed, (attention.W_key, attention.W_value))
    attended = attention.combine(queries, keys, values, layout.attend_from_last)
    x = layout.last(x) + block.drop_shortcut(attended)
    return x + block.drop_shortcut(block.ff(block.norm2(x)))
