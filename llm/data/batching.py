"""From messages to tensors: token ids padded on the right, with every message's real length.

Two ways to put messages into batches:

* for training, in a random order that is a pure function of the seed and the epoch, so that a
  resumed run sees exactly the batches of an unbroken one and all methods see the same ones;
* for prediction, sorted by length under a budget of tokens, so that next to nothing is padded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import torch

from llm.data.bpe import encode_with_dropout
from llm.data.tokenizer import Tokenizer
from llm.utils.errors import InputError


@dataclass(frozen=True)
class Encoded:
    """Messages as token ids, with their labels (-1 where there are none)."""

    ids: list[list[int]]  # one list a message, never empty, never longer than the context
    labels: list[int]
    cut: int  # messages that were longer than the context and lost their end

    def __len__(self) -> int:
        return len(self.ids)


class Batch(NamedTuple):
    """Some messages as tensors."""

    ids: torch.Tensor  # (batch, longest) token ids, padded on the right with 0
    lengths: torch.Tensor  # (batch,) real tokens in each row
    labels: torch.Tensor  # (batch,)


def encode_messages(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    labels: Sequence[int] | None,
    context_length: int,
    bpe_dropout: float = 0.0,
    seed: str = "",
) -> Encoded:
    """Tokenize messages; the ones longer than the context keep their beginning, and are counted.

    A message of no tokens at all becomes the end-of-text token alone: a model has to read
    something before it can answer.

    Args:
        bpe_dropout: cut messages another way for every seed (`llm.data.bpe.encode_with_dropout`).
    """
    if bpe_dropout:
        random = Random(seed)
        cut_up = [encode_with_dropout(text, tokenizer.ranks, bpe_dropout, random) for text in texts]
    else:
        cut_up = tokenizer.encode_batch(list(texts))
    ids = [tokens or [tokenizer.eot_id] for tokens in cut_up]
    cut = sum(len(tokens) > context_length for tokens in ids)
    ids = [tokens[:context_length] for tokens in ids]
    return Encoded(ids, list(labels) if labels is not None else [-1] * len(ids), cut)


def padded_width(
    encoded: Encoded, indices: Sequence[int], multiple: int, context_length: int
) -> int:
    """The longest of the messages at `indices`, rounded up to a multiple within the context."""
    longest = max(len(encoded.ids[index]) for index in indices)
    return min(-(-longest // multiple) * multiple, context_length)


def collate(
    encoded: Encoded,
    indices: Sequence[int],
    device: torch.device | str = "cpu",
    width: int = 0,
) -> Batch:
    """The messages at `indices` as one batch, as wide as the longest (or `width`)."""
    rows = [encoded.ids[index] for index in indices]
    longest = max(width, max(len(row) for row in rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])  # (batch, longest)
    lengths = torch.tensor([len(row) for row in rows])
    labels = torch.tensor([encoded.labels[index] for index in indices])
    return Batch(ids.to(device), lengths.to(device), labels.to(device))


def steps_per_epoch(messages: int, batch_size: int) -> int:
    """Batches that cover every message once; the last one may be smaller."""
    return -(-messages // batch_size)


def batch_indices(messages: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Which messages step number `step` trains on: a new random order every epoch."""
    if messages < 1 or batch_size < 1:
        raise InputError(f"cannot make batches of {batch_size} from {messages} messages")
    epoch, within = divmod(step, steps_per_epoch(messages, batch_size))
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(messages, generator=generator).tolist()
    return order[within * batch_size : (within + 1) * batch_size]


def sorted_batches(lengths: Sequence[int], token_budget: int = 4096) -> Iterator[list[int]]:
    """Indices in batches of similar length, at most `token_budget` tokens with padding each.

    A single message longer than the budget makes a batch by itself.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        # Longest first, so the first message of a batch is what the others are padded to.
        if batch and lengths[batch[0]] * (len(batch) + 1) > token_budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
