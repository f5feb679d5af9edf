"""Messages of like length side by side, so that attention takes a few large calls for a batch.

Attention inside each message for itself is one small call a message. At the start and at the end of
each, the threads wait for one another: thousands of times in a training step, and for long wherever
another program has taken one of the cores. Padded to the longest message of all, one call would do,
but most of it would be padding. So messages whose lengths differ by less than a factor of two
are padded to the longest of them, and go through one call.

How long that is decides, in the last bit, what each of them gets: a kernel adds up its columns in
bunches of 8 or 16, and the rest of a row in another order. Padded to a multiple of 16 there is no
rest, and a message gets the same numbers in any company.
"""

from functools import cached_property
from itertools import groupby

import torch
import torch.nn.functional as F


class LengthGroups:
    """Tokens of messages laid end to end -> a padded tensor a group of like lengths, and back.

    Args:
        lengths: tokens of each message, at least 1.
        pad_to: pad a group to a multiple of so many tokens.
    """

    def __init__(self, lengths: list[int], pad_to: int = 1):
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + length)
        by_length = sorted(range(len(lengths)), key=lambda message: lengths[message])
        self.messages = [  # numbers of the messages in each group
            list(group) for _, group in groupby(by_length, lambda m: (lengths[m] - 1).bit_length())
        ]
        self.lengths = [torch.tensor([lengths[m] for m in group]) for group in self.messages]
        sources, places = [], torch.empty(starts[-1], dtype=torch.long)
        self.shapes: list[tuple[int, int]] = []  # (messages, longest) of each group
        padded = 0  # tokens in the groups so far, padding included
        for group, group_lengths in zip(self.messages, self.lengths):
            longest = -(-int(group_lengths[-1]) // pad_to) * pad_to
            columns = torch.arange(longest)
            first = torch.tensor([starts[m] for m in group])[:, None]
            # Padding repeats the message's last token: anything will do, for nobody looks at it.
            source = first + torch.minimum(columns, group_lengths[:, None] - 1)  # (group, longest)
            real = columns < group_lengths[:, None]
            places[source[real]] = torch.arange(padded, padded + source.numel()).view_as(source)[
                real
            ]
            sources.append(source.flatten())
            self.shapes.append((len(group), longest))
            padded += source.numel()
        self._sources, self._places = torch.cat(sources), places
        self._of_heads: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def split(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(1, n_heads, all_tokens, head_dim) -> (messages, n_heads, longest, head_dim) a group."""
        n_heads = x.shape[1]
        rows = _rows(self._sources, x.transpose(1, 2).flatten(0, 1).flatten(1))
        sizes = [messages * longest for messages, longest in self.shapes]
        return [
            part.view(*shape, n_heads, -1).transpose(1, 2)
            for part, shape in zip(rows.split(sizes), self.shapes)
        ]

    def join(self, groups: list[torch.Tensor]) -> torch.Tensor:
        """The way back, without the padding."""
        n_heads = groups[0].shape[1]
        rows = torch.cat([group.transpose(1, 2).flatten(0, 1).flatten(1) for group in groups])
        return _rows(self._places, rows).unflatten(1, (n_heads, -1)).transpose(0, 1)[None]

    @cached_property
    def masks(self) -> list[torch.Tensor]:
        """Of each group (longest, longest): -inf where a token may not look, else 0."""
        longest = (longest for _, longest in self.shapes)
        return [torch.full((tokens, tokens), -torch.inf).triu_(1) for tokens in longest]

    def of_heads(self, n_heads: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The way there and back for rows of a head each, message by message and head by head.

        Returns:
            for x (all_tokens * n_heads, head_dim), the head the faster: `sources`, with
            x[sources] all groups one after the other, (messages, n_heads, longest, head_dim) each;
            and `places`, with x[sources][places] x again.
        """
        if n_heads not in self._of_heads:
            heads = torch.arange(n_heads)
            sources, rows, at = [], [], 0
            sizes = [messages * longest for messages, longest in self.shapes]
            for shape, source in zip(self.shapes, self._sources.split(sizes)):
                source = source.view(*shape)[:, None] * n_heads + heads[:, None]
                sources.append(source.flatten())  # of (messages, n_heads, longest)
                row = torch.arange(at, at + source.numel()).view_as(source)
                rows.append(row.transpose(1, 2).flatten(0, 1))  # (messages * longest, n_heads)
                at += source.numel()
            places = torch.cat(rows)[self._places].flatten()
            self._of_heads[n_heads] = torch.cat(sources), places
        return self._of_heads[n_heads]


def _rows(which: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """x[which]; the way back of an embedding is much quicker than that of an index."""
    return F.embedding(which.to(x.device), x)
