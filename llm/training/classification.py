"""The task of telling messages apart, for the loop in `llm.training.loop`.

Blocks that are never trained, below the first trainable one, make the same of a message every
time. `head`, `last_block` and LoRA in the upper blocks therefore send each message through them
once and train on what came out: the frozen blocks cost one forward pass in all, not one an epoch.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from llm.data.batching import (
    Batch,
    Encoded,
    batch_indices,
    collate,
    padded_width,
    steps_per_epoch,
)
from llm.inference.evaluation import classification_metrics, probabilities
from llm.model.classifier import GPTClassifier
from llm.model.layouts import Packed
from llm.training.next_token import next_token_loss
from llm.training.prefix import after_blocks, states_of_each


class Part(NamedTuple):
    """Messages, and what the frozen blocks made of each: None where no block is frozen."""

    messages: Encoded
    hidden: list[torch.Tensor] | None  # (tokens, emb_dim) each


class Weighted(NamedTuple):
    """A micro-batch, and what each message and each token to predict weighs in the mean loss."""

    batch: Batch
    hidden: torch.Tensor | None  # (1, all_tokens, emb_dim), what the frozen blocks made of it
    hidden_lengths: torch.Tensor | None  # (batch,) of the messages in `hidden`
    per_message: torch.Tensor
    per_token: torch.Tensor


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
        lm_loss: weight of the next-token loss on the messages, added to that of the labels
            (Radford et al. 2018, section 3.2, equation 5). Not with a frozen body, which cannot
            follow it.
        cut_anew: takes an epoch's number and returns the training messages cut into other tokens,
            as BPE-dropout does. Not with frozen blocks: what they make of a message is computed
            once.
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
        lm_loss: float = 0.0,
        cut_anew: Callable[[int], Encoded] | None = None,
    ):
        self.all_frozen = start == model.config.n_layers
        self.lm_loss = 0.0 if self.all_frozen else lm_loss
        self.cut_anew, self.epoch = None if start else cut_anew, -1
        self.batch_size, self.seed, self.start, self.width = batch_size, seed, start, width
        self.device = next(model.parameters()).device
        self.context_length = model.config.context_length
        self.on_validation: torch.Tensor | None = None  # see `evaluate`
        self.train, self.validation = (
            Part(messages, hidden_states(model, messages, start) if start else None)
            for messages in (train, validation)
        )

    def batch(self, step: int, micro_batch: int = 0, micro_batches: int = 1) -> Weighted:
        """A micro-batch of step `step`, and how much each message weighs in the mean loss."""
        epoch = step // steps_per_epoch(len(self.train.messages), self.batch_size)
        if self.cut_anew and epoch != self.epoch:
            self.train, self.epoch = Part(self.cut_anew(epoch), None), epoch
        indices = self._indices(step)
        predicted = sum(len(self.train.messages.ids[index]) - 1 for index in indices)
        weights = [1 / len(indices), 1 / max(1, predicted)]
        mine = indices[micro_batch::micro_batches]
        if not mine:  # fewer messages than parts: something to compute on, that does not count
            mine, weights = indices[:1], [0.0, 0.0]
        # Tensors, because a CUDA graph takes no other number than that which it was recorded with.
        return Weighted(*self._inputs(self.train, mine), *torch.tensor(weights, device=self.device))

    def largest_batch(self) -> Weighted:
        """The batch of the first epoch with the most tokens: the one that memory has to hold."""
        ids = self.train.messages.ids

        def tokens(step: int) -> int:
            lengths = [len(ids[index]) for index in self._indices(step)]
            padded = self.device.type == "cuda" and not self.start
            return max(lengths) * len(lengths) if padded else sum(lengths)

        return self.batch(max(range(steps_per_epoch(len(ids), self.batch_size)), key=tokens))

    def shapes(self) -> list[tuple[int, int]]:
        """(rows, tokens a row) of the first batches, at most an epoch's or a hundred, padded."""
        messages = self.train.messages
        steps = steps_per_epoch(len(messages), self.batch_size)
        batches = [self._indices(step) for step in range(min(steps, 100))]
        return [
            (len(batch), padded_width(messages, batch, self.width, self.context_length))
            for batch in batches
        ]

    def loss(self, model: GPTClassifier, weighted: Weighted) -> torch.Tensor:
        """Cross-entropy: this micro-batch's share of the mean over the batch's messages.

        With `lm_loss`, that share of the mean over the batch's tokens comes on top.
        """
        batch = weighted.batch
        if not self.lm_loss:
            logits = self._logits(model, batch, weighted.hidden, weighted.hidden_lengths)
            loss = F.cross_entropy(logits.float(), batch.labels, reduction="sum")
            return loss * weighted.per_message
        if weighted.hidden is None:
            x, layout = model.embed(batch.ids, batch.lengths)
        else:
            x, layout = weighted.hidden, Packed(weighted.hidden_lengths, model.pad_to)
        x = model.all_tokens(x, layout, self.start)
        logits = model.answer(model.pooled(x, layout))  # (batch, n_classes)
        loss = F.cross_entropy(logits.float(), batch.labels, reduction="sum")
        x, targets = layout.next_tokens(x, batch.ids)  # (places, emb_dim), (places,)
        lm_loss = next_token_loss(x, model.body.tok_emb.weight, targets)
        return loss * weighted.per_message + self.lm_loss * lm_loss * weighted.per_token

    def evaluate(self, model: GPTClassifier) -> dict:
        """Metrics on the validation messages. Best is the highest F1, then the lowest loss.

        The probabilities of the positive class, (messages,), stay in `on_validation`.
        """
        messages = self.validation.messages
        positive = probabilities(
            lambda indices: self._logits(model, *self._inputs(self.validation, indices)),
            [len(ids) for ids in messages.ids],
        )[:, 1]
        if not torch.isfinite(positive).all():
            return {"loss": math.nan, "score": []}  # the loop stops at that
        self.on_validation = positive
        metrics = classification_metrics(messages.labels, positive)
        return {**metrics, "score": [metrics["f1"], -metrics["loss"]]}

    def _indices(self, step: int) -> list[int]:
        return batch_indices(len(self.train.messages), self.batch_size, step, self.seed)

    def _inputs(self, part: Part, indices: list[int]) -> tuple:
        """A batch; and what the frozen blocks made of it, packed, with its lengths, or None."""
        width = padded_width(part.messages, indices, self.width, self.context_length)
        batch = collate(part.messages, indices, self.device, width)
        if part.hidden is None:
            return batch, None, None
        hidden = [part.hidden[index] for index in indices]
        lengths = torch.tensor([len(h) for h in hidden], device=self.device)
        return batch, torch.cat(hidden)[None], lengths  # (1, all_tokens, emb_dim)

    def _logits(self, model: GPTClassifier, batch: Batch, hidden, lengths) -> torch.Tensor:
        """(batch, n_classes)"""
        if hidden is None:
            return model(batch.ids, batch.lengths)
        if self.all_frozen:
            return model.answer(hidden[0])
        return model.from_hidden(hidden, Packed(lengths, model.pad_to), self.start)


def hidden_states(model: GPTClassifier, messages: Encoded, stop: int) -> list[torch.Tensor]:
    """What the first `stop` blocks make of each message: a list of (tokens, emb_dim).

    With all blocks, the vector that the head reads: (1, emb_dim).
    """

    def states_of(batch: Batch) -> Sequence[torch.Tensor]:
        x, layout = model.embed(batch.ids, batch.lengths)
        if stop == model.config.n_layers:
            return model.vectors(x, layout)[:, None]  # (batch, 1, emb_dim)
        return after_blocks(model.body.trf_blocks[:stop], x, layout)

    return states_of_each(messages, next(model.parameters()).device, states_of)
