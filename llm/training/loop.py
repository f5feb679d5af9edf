"""One training loop, for pretraining and for fine-tuning alike.

The loop knows nothing of text: a task says what a batch is and what its loss is
(`llm.training.step.Task`). The loop owns the learning rate (linear warm-up, then a cosine down to
`final_lr_share`), the best weights on validation, and checkpoints.
"""

import math
import time
from dataclasses import asdict
from pathlib import Path

from torch import nn

from llm.training import distributed
from llm.training.checkpoint import CHECKPOINT, Run
from llm.training.interrupt import interrupt_after_step
from llm.training.settings import TrainSettings
from llm.training.step import OptimizerStep, Task, make_optimizer
from llm.utils.progress import progress


def learning_rate(settings: TrainSettings, step: int) -> float:
    """The rate of step number `step`, counted from 0."""
    steps = settings.schedule_steps or settings.steps
    warmup = max(1, round(settings.warmup_share * steps))
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)  # 0 to 1
    cosine = 0.5 * (1 + math.cos(math.pi * progress))  # 1 to 0
    return settings.lr * (settings.final_lr_share + (1 - settings.final_lr_share) * cosine)


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
        the history: `curve` (step, loss, lr), `evaluations` (step and the task's metrics),
        `train_seconds` (without evaluations), `best_step`, and with several processes
        `exchanged_bytes`, the gradients that one of them has put into averages.

    Raises:
        InputError: the loss is not finite, a checkpoint does not fit, or the disk is full. The
            last checkpoint stays whole in each case.
        KeyboardInterrupt: passed on, after a checkpoint is written.
    """
    optimizer = make_optimizer(model, settings)
    path = Path(folder) / CHECKPOINT if folder else None
    run = Run(model, optimizer, {"settings": _chosen(settings), **(identity or {})}, path)
    if resume:
        run.load()
    optimizer_step = OptimizerStep(model, task, optimizer, settings)
    waits_for_device = optimizer_step.device.type != "cpu"  # to look at a loss is to wait for it
    quiet = quiet or not distributed.is_main_process()
    bar = progress(total=settings.steps, initial=run.step, unit="step", quiet=quiet)
    model.train()
    with interrupt_after_step() as interrupt, bar:
        while run.step < settings.steps:
            started = time.perf_counter()
            rate = learning_rate(settings, run.step)
            run.note(rate, optimizer_step.take(run.step, rate))
            if not waits_for_device or run.step % settings.log_every == 0:
                run.log_losses(settings.log_every)
            run.history["train_seconds"] += time.perf_counter() - started
            bar.update()

            if _is_due(run.step, settings.evaluate_every, settings.steps):
                run.log_losses(settings.log_every)
                run.evaluate(task, settings.keep_best)
                bar.set_postfix_str(_short(run.history["evaluations"][-1]))
            stop = interrupt.requested and run.step < settings.steps
            every = settings.checkpoint_every or settings.evaluate_every
            if stop or _is_due(run.step, every, settings.steps):
                run.log_losses(settings.log_every)
                run.save()
            if stop:
                raise KeyboardInterrupt
    model.eval()
    run.log_losses(settings.log_every)
    run.restore_best()
    if distributed.world_size() > 1:
        run.history["exchanged_bytes"] = optimizer_step.exchanged_bytes
    return run.history


def _chosen(settings: TrainSettings) -> dict:
    """The settings that make a run what it is: with CUDA graphs or without, it is the same run.

    A checkpoint from before there was a ratio of rates is one with the ratio 1.
    """
    left_out = ["cuda_graphs"] + ["lr_ratio"] * (settings.lr_ratio == 1)
    return {key: value for key, value in asdict(settings).items() if key not in left_out}


def _is_due(step: int, every: int, steps: int) -> bool:
    """Whether something done every so often (0: never), and at the end, is due after `step`."""
    return every > 0 and (step % every == 0 or step == steps)


def _short(metrics: dict) -> str:
    shown = ("loss", "f1", "bits_per_byte")
    return ", ".join(f"{key} {metrics[key]:.3f}" for key in shown if metrics.get(key) is not None)
