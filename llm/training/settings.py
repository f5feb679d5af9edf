"""How to train: settings as plain data, checked when they are made. Nothing heavy is imported."""

import math
from dataclasses import dataclass

from llm.utils.errors import InputError


@dataclass(frozen=True)
class TrainSettings:
    """What `llm.training.loop.train` is told; the defaults suit fine-tuning."""

    steps: int  # optimiser steps in all
    lr: float  # the highest learning rate, reached after the warm-up
    schedule_steps: int = 0  # steps the schedule is laid out for; 0: `steps`
    warmup_share: float = 0.1  # of the schedule
    final_lr_share: float = 0.0  # of `lr`, at the end of the cosine
    weight_decay: float = 0.01  # on matrices; never on biases and LayerNorms
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float = 1.0  # longest gradient
    accumulate: int = 1  # micro-batches that a batch is computed in, to save memory
    evaluate_every: int = 0  # steps; 0: never
    checkpoint_every: int = 0  # steps; 0: at each evaluation
    keep_best: bool = True  # end with the weights that scored best on validation
    log_every: int = 1  # steps between two entries of the loss curve
    precision: str = "fp32"
    compile: bool = False  # torch.compile, worth it for long runs on a GPU
    cuda_graphs: bool = False  # replay each step as one CUDA graph; for batches of few shapes
    seed: int = 0

    def __post_init__(self):
        if self.steps < 1 or self.accumulate < 1 or self.log_every < 1:
            raise InputError("steps, accumulate and log_every must be at least 1")
        if 0 < self.schedule_steps < self.steps or self.schedule_steps < 0:
            raise InputError(f"a schedule of {self.schedule_steps} steps ends before the training")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"the learning rate must be a positive number, not {self.lr}")
