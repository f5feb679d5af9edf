"""One optimizer step, however it is computed: at once, in micro-batches, by several processes.

Whatever is random in a step is a function of the seed and the step's number, so a run that was
killed and resumed ends with the same weights as an unbroken one.
"""

import math
from typing import Any, Protocol

import torch
from torch import nn

from llm.training import distributed
from llm.training.device import autocast
from llm.training.graphs import CUDAGraphSteps, RecordedUpdate
from llm.training.muon import Muon
from llm.training.settings import TrainSettings
from llm.utils.errors import InputError


class Task(Protocol):
    """What is trained for: `llm.training.classification` and `.pretraining` have one each."""

    def batch(self, step: int, micro_batch: int, micro_batches: int) -> Any:
        """Micro-batch number `micro_batch` of the batch of step `step`; the same whenever asked."""

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """The micro-batch's share of the batch's mean loss: all shares add up to the mean."""

    def evaluate(self, model: nn.Module) -> dict:
        """Metrics on validation data; `score` among them decides which weights are best."""


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over what is trainable, one fused kernel a group.

    Weight decay acts on matrices alone, not on biases and LayerNorms.

    With `muon`, Muon for the matrices and AdamW for the rest. Embeddings count as rest: a step
    gives a gradient to the rows of the tokens in the batch, and a table has no directions to share.

    With `lr_ratio`, LoRA+ (Hayou et al. 2024, "LoRA+: Efficient Low Rank Adaptation of Large
    Models", section 4): B learns that many times as fast as A. In a wide model one rate cannot suit
    both: an entry of x A is a sum over thousands of inputs, one of (x A) B over `rank` numbers.
    As in the paper's code and in `peft`, the faster ones are B and all vectors (DoRA's magnitudes,
    the head's bias); A and the head's matrix are the others. `peft` lets weight decay pull on the
    magnitudes too; here it spares all vectors, since a magnitude of 0 would be a row of W lost.

    Raises InputError when nothing is trainable.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not named:
        raise InputError("nothing is trainable; choose a method that trains something")
    muon = settings.optimizer == "muon"
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    groups: dict[tuple, list[nn.Parameter]] = {}
    for name, parameter in named:
        matrix = parameter.dim() >= 2
        orthogonal = matrix and muon and parameter not in tables
        faster = name.endswith("lora.B") or not matrix
        ratio = settings.lr_ratio if faster else 1.0
        groups.setdefault((orthogonal, matrix, ratio), []).append(parameter)
    ordered = sorted(groups.items(), key=lambda group: group[0], reverse=True)
    return (Muon if muon else torch.optim.AdamW)(
        [
            {
                "params": parameters,
                "weight_decay": settings.weight_decay if matrix else 0.0,
                "orthogonal": orthogonal,
                "ratio": ratio,  # of the group's rate to the step's
                "lr": settings.lr * ratio,
            }
            for (orthogonal, matrix, ratio), parameters in ordered
        ],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        fused=named[0][1].device.type in ("cpu", "cuda"),
    )


class OptimizerStep:
    """Takes optimizer steps on a model: `take(step, rate)` is all that a loop needs.

    Args:
        model: with `requires_grad` set on what is to be trained.
        task: its batches and its loss.
        optimizer: over the model's trainable parameters.
        settings: micro-batches, precision, clipping, compiling, CUDA graphs, seed.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        optimizer: torch.optim.Optimizer,
        settings: TrainSettings,
    ):
        self.task, self.optimizer, self.settings = task, optimizer, settings
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.device = self.trainable[0].device
        self.model = torch.compile(model) if settings.compile else model
        self.micro_batches = settings.accumulate * distributed.world_size()
        first = settings.accumulate * distributed.rank()
        self.mine = range(first, first + settings.accumulate)  # of the micro-batches
        self.exchanged_bytes = 0  # gradients that this process has put into sums
        graphs = settings.cuda_graphs and self.device.type == "cuda" and settings.accumulate == 1
        self._recorded = CUDAGraphSteps(self._loss, self.trainable) if graphs else None
        self._update = None
        if graphs and type(optimizer) is torch.optim.AdamW:
            self._update = RecordedUpdate(optimizer, self.trainable, settings.clip_norm)

    def take(self, step: int, rate: float) -> torch.Tensor:
        """Take step number `step` at a learning rate.

        Returns:
            the mean loss of the step's whole batch, a scalar on the device.
        """
        torch.manual_seed(self.settings.seed * 1_000_003 + step)  # dropout is the step's alone
        loss = torch.zeros((), device=self.device)
        for micro_batch in self.mine:
            loss += self._backward(self.task.batch(step, micro_batch, self.micro_batches))
        self.exchanged_bytes += distributed.sum_gradients(self.trainable)
        loss = distributed.sum_over_processes(loss)
        if self.device.type == "cpu" and not math.isfinite(loss):
            return loss  # the loop stops at that, and the weights stay good
        if self._update:
            self._update(rate)
            self.optimizer.zero_grad()
            return loss
        if self.settings.clip_norm:
            nn.utils.clip_grad_norm_(self.trainable, self.settings.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["ratio"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def _backward(self, batch: Any) -> torch.Tensor:
        """Add a micro-batch's gradients to those that are there. Returns its share of the loss."""
        if self._recorded:
            return self._recorded(batch)
        share = self._loss(batch)
        share.backward()
        return share.detach()

    def _loss(self, batch: Any) -> torch.Tensor:
        with autocast(self.device.type, self.settings.precision):
            return self.task.loss(self.model, batch)
