"""The task of telling messages apart, for the loop in `llm.training.loop`.

Blocks that are never trained, below the first trainable one, make the same of a message every
time. `head` and `last_block` therefore send each message through them once and train on what
came out: the frozen blocks cost one forward pass in all, not one an epoch.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from llm.data.batching import (
    Batch,
    Encoded,
    batch_indices,
    collate,
    sorted_batches,
    steps_per_epoch,
)
from llm.inference.evaluation import classification_metrics, probabilities
from llm.model.classifier import GPTClassifier
from llm.model.layouts import Packed, last_tokens_of_block


class Part(NamedTuple):
    """Messages, and what the frozen blocks made of each: None where no block is frozen."""

    messages: Encoded
    hidden: list[torch.Tensor] | None  # (tokens, emb_dim) each


class ClassificationTask:
    """Batches, loss and validation of fine-tuning.

    Args:
        model: prepared by `llm.lora.methods.apply_method`, which returns `start`.
        train, validation: labelled messages.
        batch_size: messages a step.
        seed: of the order of the messages.
        start: blocks from the bottom that stay frozen; their output is computed here, once.
        width: pad training messages to a multiple of so many tokens. A GPU then meets few shapes
            of batches, which is what CUDA graphs need (`llm.training.speed`).
    """

    def __init__(
        self,
        model: GPTClassifier,
        train: Encoded,
        validation: Encoded,
        batch_size: int,
        seed: int,
        start: int = 0,
        width: int = 1,
    ):
        self.batch_size, self.seed, self.start, self.width = batch_size, seed, start, width
        self.device = next(model.parameters()).device
        self.context_length = model.config.context_length
        self.train, self.validation = (
            Part(messages, hidden_states(model, messages, start) if start else None)
            for messages in (train, validation)
        )

    def batch(self, step: int, micro_batch: int = 0, micro_batches: int = 1) -> tuple[Batch, float]:
        """A micro-batch of step `step`, and how much each message weighs in the mean loss."""
        indices = self._indices(step)
        weight = 1 / len(indices)
        mine = indices[micro_batch::micro_batches]
        if not mine:  # fewer messages than parts: something to compute on, that does not count
            mine, weight = indices[:1], 0.0
        return self._inputs(self.train, mine), weight

    def largest_batch(self) -> tuple[Batch, float]:
        """The batch of the first epoch with the most tokens: the one that memory has to hold."""
        ids = self.train.messages.ids

        def tokens(step: int) -> int:
            lengths = [len(ids[index]) for index in self._indices(step)]
            padded = self.device.type == "cuda" and not self.start
            return max(lengths) * len(lengths) if padded else sum(lengths)

        return self.batch(max(range(steps_per_epoch(len(ids), self.batch_size)), key=tokens))

    def loss(self, model: torch.nn.Module, batch: tuple[Batch, float]) -> torch.Tensor:
        """Cross-entropy: this micro-batch's share of the mean over the batch's messages."""
        messages, weight = batch
        logits = self._logits(model, messages)  # (batch, n_classes)
        return F.cross_entropy(logits.float(), messages.labels, reduction="sum") * weight

    def evaluate(self, model: GPTClassifier) -> dict:
        """Metrics on the validation messages. Best is the highest F1, then the lowest loss."""
        messages = self.validation.messages
        positive = probabilities(
            lambda indices: self._logits(model, self._inputs(self.validation, indices)),
            [len(ids) for ids in messages.ids],
        )[:, 1]
        if not torch.isfinite(positive).all():
            return {"loss": math.nan, "score": []}  # the loop stops at that
        metrics = classification_metrics(messages.labels, positive)
        return {**metrics, "score": [metrics["f1"], -metrics["loss"]]}

    def _indices(self, step: int) -> list[int]:
        return batch_indices(len(self.train.messages), self.batch_size, step, self.seed)

    def _inputs(self, part: Part, indices: list[int]) -> Batch:
        """A batch as the model takes it: ids, or what the frozen blocks made of them, packed."""
        longest = max(len(part.messages.ids[index]) for index in indices)
        width = min(-(-longest // self.width) * self.width, self.context_length)
        batch = collate(part.messages, indices, self.device, width)
        if part.hidden is None:
            return batch
        hidden = [part.hidden[index] for index in indices]
        lengths = torch.tensor([len(h) for h in hidden], device=self.device)
        return Batch(torch.cat(hidden)[None], lengths, batch.labels)  # (1, all_tokens, emb_dim)

    def _logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """(batch, n_classes)"""
        if not self.start:
            return model(batch.ids, batch.lengths)
        return model.from_hidden(batch.ids, Packed(batch.lengths), self.start)


@torch.no_grad()
def hidden_states(model: GPTClassifier, messages: Encoded, stop: int) -> list[torch.Tensor]:
    """What the first `stop` blocks make of each message: a list of (tokens, emb_dim).

    After the last block nobody reads any token but the last, so then it is (1, emb_dim).
    """
    device = next(model.parameters()).device
    last = stop == model.config.n_layers
    hidden: list[torch.Tensor] = [torch.empty(0)] * len(messages)
    for indices in sorted_batches([len(ids) for ids in messages.ids], 2048):
        batch = collate(messages, indices, device)
        x, layout = model.embed(batch.ids, batch.lengths)
        for block in model.body.trf_blocks[: stop - 1 if last else stop]:
            x = block(x, layout.attend)
        if last:
            x = last_tokens_of_block(model.body.trf_blocks[-1], x, layout)
            rows = x.flatten(0, 1)[:, None]  # (batch, 1, emb_dim)
        else:
            rows = layout.messages(x)
        for index, row in zip(indices, rows, strict=True):
            hidden[index] = row.clone()
    return hidden
