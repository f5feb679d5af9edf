"""One training loop, for pretraining and for fine-tuning alike.

The loop knows nothing of text. A task says what a batch is and what its loss is; the loop owns
the optimiser (AdamW, Loshchilov and Hutter 2019), the learning rate (linear warm-up, then a
cosine down to `final_lr_share`), gradient clipping, the best weights on validation, and
checkpoints. Whatever is random in a step is a function of the seed and the step's number, so a
run that was killed and resumed ends with the same weights as an unbroken one.
"""

import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from llm.model.parameters import trainable_state
from llm.training import distributed
from llm.training.checkpoint import CHECKPOINT, Run
from llm.training.device import autocast
from llm.training.interrupt import interrupt_after_step
from llm.training.speed import RecordedSteps
from llm.utils.errors import InputError


class Task(Protocol):
    """What is trained for: `llm.training.classification` and `.pretraining` have one each."""

    def batch(self, step: int, part: int, parts: int) -> Any:
        """Part number `part` of `parts` of the batch of step `step`; the same whenever asked."""

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """The part's share of the batch's mean loss: all parts' losses add up to the mean."""

    def evaluate(self, model: nn.Module) -> dict:
        """Measures on validation data; `score` among them decides which weights are best."""


@dataclass(frozen=True)
class TrainSettings:
    """How to train; the defaults suit fine-tuning."""

    steps: int  # optimiser steps in all
    lr: float  # the highest learning rate, reached after the warm-up
    schedule_steps: int = 0  # steps the schedule is laid out for; 0: `steps`
    warmup_share: float = 0.1  # of the schedule
    final_lr_share: float = 0.0  # of `lr`, at the end of the cosine
    weight_decay: float = 0.01  # on matrices; never on biases and LayerNorms
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float = 1.0  # longest gradient
    accumulate: int = 1  # parts that a batch is computed in, to save memory
    evaluate_every: int = 0  # steps; 0: never
    checkpoint_every: int = 0  # steps; 0: at each evaluation
    keep_best: bool = True  # end with the weights that scored best on validation
    log_every: int = 1  # steps between two entries of the loss curve
    precision: str = "fp32"
    compile: bool = False  # torch.compile, worth it for long runs on a GPU
    record: bool = False  # replay each step as one CUDA graph; for batches of few shapes
    seed: int = 0

    def __post_init__(self):
        if self.steps < 1 or self.accumulate < 1 or self.log_every < 1:
            raise InputError("steps, accumulate and log_every must be at least 1")
        if 0 < self.schedule_steps < self.steps or self.schedule_steps < 0:
            raise InputError(f"a schedule of {self.schedule_steps} steps ends before the training")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"the learning rate must be a positive number, not {self.lr}")


def learning_rate(settings: TrainSettings, step: int) -> float:
    """The rate of step number `step`, counted from 0."""
    steps = settings.schedule_steps or settings.steps
    warmup = max(1, round(settings.warmup_share * steps))
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)  # 0 to 1
    cosine = 0.5 * (1 + math.cos(math.pi * progress))  # 1 to 0
    return settings.lr * (settings.final_lr_share + (1 - settings.final_lr_share) * cosine)


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over what is trainable, weight decay on matrices alone, one fused kernel a group."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise InputError("nothing is trainable; choose a method that trains something")
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        fused=trainable[0].device.type in ("cpu", "cuda"),
    )


def train(
    model: nn.Module,
    task: Task,
    settings: TrainSettings,
    folder: str | Path | None = None,
    resume: bool = False,
    identity: dict | None = None,
    quiet: bool = True,
) -> dict:
    """Train `model` in place.

    Args:
        model: with `requires_grad` set on what is to be trained.
        task: the batches, the loss and the validation.
        folder: where checkpoints go; None keeps none.
        resume: go on from the folder's checkpoint, if there is one.
        identity: what else must be the same for a checkpoint to fit (data, base, method).
        quiet: no progress bar; without it, one on stderr where that is a terminal.

    Returns:
        the history: `curve` (step, loss, lr), `evaluations` (step and the task's measures),
        `train_seconds` (without evaluations), `best_step`, and with several processes
        `exchanged_bytes`, the gradients that one of them has put into averages.

    Raises:
        InputError: the loss is not finite, a checkpoint does not fit, or the disk is full. The
            last checkpoint stays whole in each case.
        KeyboardInterrupt: passed on, after a checkpoint is written.
    """
    device = next(model.parameters()).device
    optimizer = make_optimizer(model, settings)
    chosen = {key: value for key, value in asdict(settings).items() if key != "record"}
    identity = {"settings": chosen, **(identity or {})}  # recorded or not, it is the same run
    run = Run(model, optimizer, identity, Path(folder) / CHECKPOINT if folder else None)
    if resume:
        run.load()
    wrapped = distributed.wrap(model)
    if settings.compile:
        wrapped = torch.compile(wrapped)
    every = settings.checkpoint_every or settings.evaluate_every
    parts = settings.accumulate * distributed.processes()
    first_part = settings.accumulate * distributed.rank()
    progress = _progress_bar(settings.steps, run.step, quiet)
    pending: list[tuple[int, float, torch.Tensor]] = []  # losses not looked at yet

    trainable = [p for p in model.parameters() if p.requires_grad]

    def loss_of(batch) -> torch.Tensor:
        with autocast(device.type, settings.precision):
            return task.loss(wrapped, batch)

    recorded = None
    if settings.record and device.type == "cuda" and parts == 1:
        recorded = RecordedSteps(loss_of, trainable)
    model.train()
    with interrupt_after_step() as interrupt, progress:
        while run.step < settings.steps:
            started = time.perf_counter()
            step, rate = run.step, learning_rate(settings, run.step)
            torch.manual_seed(settings.seed * 1_000_003 + step)  # dropout is the step's alone
            loss = torch.zeros((), device=device)
            for part in range(first_part, first_part + settings.accumulate):
                last = part == first_part + settings.accumulate - 1
                batch = task.batch(step, part, parts)
                if recorded:
                    loss += recorded(batch)
                    continue
                with nullcontext() if last else distributed.no_sync(wrapped):
                    share = loss_of(batch)
                    # DDP averages gradients over the processes, but shares add up.
                    (share * distributed.processes()).backward()
                loss += share.detach()
            pending.append((step, rate, distributed.sum_over_processes(loss)))
            if device.type == "cpu" or (step + 1) % settings.log_every == 0:
                _log(pending, run, settings.log_every)  # looking waits for a GPU
            if settings.clip_norm:
                nn.utils.clip_grad_norm_(trainable, settings.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
            run.step += 1
            run.history["train_seconds"] += time.perf_counter() - started
            progress.update()

            at_end = run.step == settings.steps
            if settings.evaluate_every and (run.step % settings.evaluate_every == 0 or at_end):
                _log(pending, run, settings.log_every)
                model.eval()
                measures = task.evaluate(model)
                _refuse_nan(measures.get("loss", 0.0), step, rate, run)
                run.keep(measures, settings.keep_best)
                model.train()
                progress.set_postfix_str(_short(run.history["evaluations"][-1]))
            if every and (run.step % every == 0 or at_end):
                _log(pending, run, settings.log_every)
                run.save()
            if interrupt.requested and not at_end:
                _log(pending, run, settings.log_every)
                run.save()
                raise KeyboardInterrupt
    model.eval()
    _log(pending, run, settings.log_every)
    if run.best:
        with torch.no_grad():
            for name, parameter in trainable_state(model).items():
                parameter.copy_(run.best[name])
    if distributed.processes() > 1:
        run.history["exchanged_bytes"] = distributed.exchanged_bytes(wrapped)
    return run.history


def _log(pending: list, run: Run, log_every: int) -> None:
    """Look at the losses since the last look; refuse to go on from one that is not finite."""
    for step, rate, loss in pending:
        value = float(loss)
        _refuse_nan(value, step, rate, run)
        if (step + 1) % log_every == 0 or step == 0:
            run.history["curve"].append({"step": step + 1, "loss": value, "lr": rate})
    pending.clear()


def _refuse_nan(loss: float, step: int, rate: float, run: Run) -> None:
    if not math.isfinite(loss):
        kept = run.path is not None and run.path.exists()
        raise InputError(
            f"the loss became {loss} at step {step + 1} with learning rate {rate:.2e}; "
            "try a lower --lr, or --precision fp32; "
            + (f"the last good weights are kept in {run.path}" if kept else "nothing was kept yet")
        )


def _progress_bar(steps: int, done: int, quiet: bool):
    from tqdm import tqdm

    return tqdm(
        total=steps,
        initial=done,
        unit="step",
        leave=False,
        disable=True if quiet or not distributed.first() else None,  # None: only on a terminal
    )


def _short(measures: dict) -> str:
    shown = ("loss", "f1", "bits_per_byte")
    return ", ".join(f"{key} {measures[key]:.3f}" for key in shown if measures.get(key) is not None)
