"""The task of telling messages apart, for the loop in `llm.training`.

Blocks that are never trained, below the first trainable one, make the same of a message every
time. `head` and `last_block` therefore send each message through them once and train on what
came out: the frozen prefix costs one forward pass in all, not one an epoch.
"""

import math

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
from llm.inference.evaluation import classification_metrics
from llm.model.classifier import GPTClassifier


class ClassificationTask:
    """Batches, loss and validation of fine-tuning.

    Args:
        model: prepared by `llm.lora.methods.apply_method`, which returns `start`.
        train, validation: labelled messages.
        batch_size: messages a step.
        seed: of the order of the messages.
        start: blocks from the bottom that stay frozen; their output is computed here, once.
        width: pad training messages to a multiple of so many tokens. A GPU then meets few shapes
            of batches, which is what recording a step needs (`llm.training.speed`).
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
        self.train, self.validation = train, validation
        if start:
            self.hidden = {id(part): prefix(model, part, start) for part in (train, validation)}

    def batch(self, step: int, part: int = 0, parts: int = 1) -> tuple[Batch, float]:
        """This part's messages of step `step`, and how much each weighs in the mean loss."""
        indices = batch_indices(len(self.train), self.batch_size, step, self.seed)
        weight = 1 / len(indices)
        mine = indices[part::parts]
        if not mine:  # fewer messages than parts: something to compute on, that does not count
            mine, weight = indices[:1], 0.0
        return self.inputs(self.train, mine), weight

    def largest_batch(self) -> tuple[Batch, float]:
        """The batch of the first epoch with the most tokens: the one that memory has to hold."""
        steps = range(steps_per_epoch(len(self.train), self.batch_size))

        def tokens(step: int) -> int:
            indices = batch_indices(len(self.train), self.batch_size, step, self.seed)
            lengths = [len(self.train.ids[index]) for index in indices]
            padded = self.device.type == "cuda" and not self.start
            return max(lengths) * len(lengths) if padded else sum(lengths)

        return self.batch(max(steps, key=tokens))

    def loss(self, model: torch.nn.Module, batch: tuple[Batch, float]) -> torch.Tensor:
        """Cross-entropy: this part's share of the mean over the batch's messages."""
        (x, lengths, labels), weight = batch
        logits = model(x, lengths, self.start)  # (batch, n_classes)
        return F.cross_entropy(logits.float(), labels, reduction="sum") * weight

    @torch.no_grad()
    def evaluate(self, model: GPTClassifier) -> dict:
        """The measures on the validation messages. Best is the highest F1, then the lowest loss."""
        lengths = [len(ids) for ids in self.validation.ids]
        positive = torch.empty(len(self.validation))
        for indices in sorted_batches(lengths, 2048):
            x, real, _ = self.inputs(self.validation, indices)
            logits = model(x, real, self.start).float()  # (batch, n_classes)
            positive[indices] = torch.softmax(logits, dim=-1)[:, 1].cpu()
        if not torch.isfinite(positive).all():
            return {"loss": math.nan, "score": []}  # the loop stops at that
        measures = classification_metrics(self.validation.labels, positive)
        return {**measures, "score": [measures["f1"], -measures["loss"]]}

    def inputs(self, messages: Encoded, indices: list[int]) -> Batch:
        """A batch as the model takes it: ids, or what the frozen blocks made of them."""
        longest = max(len(messages.ids[index]) for index in indices)
        width = min(-(-longest // self.width) * self.width, self.context_length)
        batch = collate(messages, indices, self.device, width)
        if not self.start:
            return batch
        hidden = [self.hidden[id(messages)][index] for index in indices]
        lengths = torch.tensor([len(h) for h in hidden], device=self.device)
        return Batch(torch.cat(hidden), lengths, batch.labels)  # packed: (all_tokens, emb_dim)


@torch.no_grad()
def prefix(model: GPTClassifier, messages: Encoded, stop: int) -> list[torch.Tensor]:
    """What the first `stop` blocks make of each message: a list of (tokens, emb_dim).

    After the last block nobody reads any token but the last, so then it is (1, emb_dim).
    """
    device = next(model.parameters()).device
    last = stop == model.config.n_layers
    hidden: list[torch.Tensor] = [torch.empty(0)] * len(messages)
    for indices in sorted_batches([len(ids) for ids in messages.ids], 2048):
        batch = collate(messages, indices, device)
        x = model.embed(batch.ids, batch.lengths)
        for block in model.body.trf_blocks[: stop - 1 if last else stop]:
            x = block(x, batch.lengths)
        if last:
            rows = model.body.trf_blocks[-1](x, batch.lengths, last_only=True)[:, None]
        elif x.dim() == 2:
            rows = x.split(batch.lengths.tolist())
        else:
            rows = [row[:length] for row, length in zip(x, batch.lengths.tolist())]
        for index, row in zip(indices, rows):
            hidden[index] = row.clone()
    return hidden
