"""The task of writing, for the loop in `llm.training.loop`: the next token of every document.

Documents are laid end to end, or in rows of their own on a GPU (`llm.model.layouts`); in both no
token looks at another document, so a batch of them is what each is by itself.

Where the lower blocks are not trained, what they make of each piece of a document is computed once
(`llm.training.prefix`). A piece is cut into the same tokens in every epoch, so nothing stands in
the way but dropout in the base, which would be drawn anew each time.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from llm.data.batching import Batch, batch_indices, collate, padded_width, steps_per_epoch
from llm.data.documents import EncodedDocuments
from llm.inference.log_probabilities import measure_documents
from llm.model.gpt import GPTModel
from llm.model.layouts import Packed, lay_out, read_all
from llm.training.next_token import next_token_loss
from llm.training.prefix import after_blocks, states_of_each
from llm.utils.errors import InputError


class WeightedTokens(NamedTuple):
    """A micro-batch, and what each token to predict weighs in the mean loss of the batch."""

    batch: Batch
    per_token: torch.Tensor
    hidden: torch.Tensor | None  # (1, all_tokens, emb_dim), what the frozen blocks made of it


class WritingTask:
    """Batches, loss and validation of learning to write.

    Args:
        model: the language model to train; its blocks and its context are looked at.
        train, validation: documents.
        batch_size: pieces of documents a step; a document within the context is one piece.
        seed: of their order.
        width: pad training documents to a multiple of so many tokens, for CUDA graphs.
        start: blocks from the bottom that stay frozen; their output is computed here, once.
        pad_to: what attention pads groups of documents to a multiple of (`llm.model.groups`).
    """

    def __init__(
        self,
        model: GPTModel,
        train: EncodedDocuments,
        validation: EncodedDocuments,
        batch_size: int,
        seed: int,
        width: int = 1,
        start: int = 0,
        pad_to: int = 1,
    ):
        self.train, self.validation = train, validation
        self.batch_size, self.seed, self.width = batch_size, seed, width
        self.device = next(model.parameters()).device
        self.context_length = model.config.context_length
        self.start, self.pad_to = start, pad_to
        self.hidden = self._through_frozen(model) if start else None

    def batch(self, step: int, micro_batch: int = 0, micro_batches: int = 1) -> WeightedTokens:
        """A micro-batch of step `step`, and how much each of its tokens weighs."""
        ids = self.train.pieces.ids
        indices = self._indices(step)
        weight = 1 / sum(len(ids[index]) - 1 for index in indices)
        mine = indices[micro_batch::micro_batches]
        if not mine:  # fewer pieces than parts: something to compute on, that does not count
            mine, weight = indices[:1], 0.0
        width = padded_width(self.train.pieces, mine, self.width, self.context_length)
        batch = collate(self.train.pieces, mine, self.device, width)
        hidden = self.hidden and torch.cat([self.hidden[index] for index in mine])[None]
        # A tensor, because a CUDA graph takes no other number than it was recorded with.
        return WeightedTokens(batch, torch.tensor(weight, device=self.device), hidden)

    def largest_batch(self) -> WeightedTokens:
        """The batch of the first epoch with the most tokens: the one that memory has to hold."""
        ids = self.train.pieces.ids

        def tokens(step: int) -> int:
            lengths = [len(ids[index]) for index in self._indices(step)]
            padded = self.device.type == "cuda" and not self.start
            return max(lengths) * len(lengths) if padded else sum(lengths)

        return self.batch(max(range(steps_per_epoch(len(ids), self.batch_size)), key=tokens))

    def shapes(self) -> list[tuple[int, int]]:
        """(rows, tokens a row) of the first batches, at most an epoch's or a hundred, padded."""
        messages = self.train.pieces
        steps = steps_per_epoch(len(messages), self.batch_size)
        batches = [self._indices(step) for step in range(min(steps, 100))]
        return [
            (len(batch), padded_width(messages, batch, self.width, self.context_length))
            for batch in batches
        ]

    def loss(self, model: GPTModel, weighted: WeightedTokens) -> torch.Tensor:
        """Cross-entropy: this micro-batch's share of the mean over the batch's tokens."""
        batch = weighted.batch
        if weighted.hidden is None:
            x, layout = lay_out(model, batch.ids, batch.lengths, pad_to=self.pad_to)
        else:
            x, layout = weighted.hidden, Packed(batch.lengths, self.pad_to)
        x, targets = layout.next_tokens(read_all(model, x, layout, self.start), batch.ids)
        return next_token_loss(x, model.tok_emb.weight, targets) * weighted.per_token

    def evaluate(self, model: GPTModel) -> dict:
        """Bits a byte of the validation documents. Best is the lowest loss."""
        try:
            metrics = measure_documents(model, self.validation)
        except InputError:
            return {"loss": math.nan, "score": []}  # the loop stops at that
        return {**metrics, "score": [-metrics["loss"]]}

    def _through_frozen(self, model: GPTModel) -> list[torch.Tensor]:
        """What the frozen blocks make of each piece: (tokens, emb_dim)."""

        def states_of(batch: Batch) -> Sequence[torch.Tensor]:
            x, layout = lay_out(model, batch.ids, batch.lengths, pad_to=self.pad_to)
            return after_blocks(model.trf_blocks[: self.start], x, layout)

        return states_of_each(self.train.pieces, self.device, states_of)

    def _indices(self, step: int) -> list[int]:
        return batch_indices(len(self.train.pieces), self.batch_size, step, self.seed)
