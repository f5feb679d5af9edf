"""Whether compiling the blocks of a fine-tuning is worth its time, before anything is compiled.

`torch.compile` takes a quarter of a minute, once a run, and makes every step on a GPU
shorter by the passes over memory, and the kernels, that it joins. A run of a few hundred steps of
a small model is over before that has paid; a day of a large one should not go without it.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from llm.model.config import GPTConfig
from llm.training.settings import FinetuneSettings
from llm.utils.errors import InputError

# Two measurements of `python -m llm.benchmark gpu` on an H100 (data/benchmarks/gpu_steps.json),
# recorded steps of LoRA without and with compiled blocks: 124M, 1,024 tokens a step, 5.48 and 3.31
# ms; 1558M, 8,192 tokens, 163.1 and 120.9 ms. A block's joined kernels save a time of their own,
# and one for each number in (tokens, emb_dim); two equations give both.
SAVED_A_BLOCK = 1.36e-4  # seconds a step
SAVED_A_NUMBER = 5.66e-11  # seconds a step, block, token and unit of emb_dim
# Seconds of the first step, which compiles and records, with nothing kept from an earlier run: 15.7
# at 1558M and 15.2 at 124M on an H200 (data/speed.md).
ONE_SHAPE = 15.0
MORE_SHAPES = 2  # batches of a second shape are compiled for any shape, then never again
MEMORY = 1.5  # most of the memory account that compiled blocks have taken; 1.22 was measured


@dataclass(frozen=True)
class Compiling:
    """What compiling would cost a run and save it, in seconds."""

    steps: int
    costs: float
    saves: float
    hindrance: str = ""  # why it is not to be done by itself, whatever it saves

    @property
    def pays(self) -> bool:
        """Whether a run compiles where nobody has said anything."""
        return not self.hindrance and self.saves > self.costs

    def describe(self, compiled: bool) -> str:
        """One line for people."""
        what = f"compiling takes about {self.costs:.0f} s and saves about {self.saves:.0f} s"
        what += f" in {self.steps:,} steps"
        if compiled:
            return f"the blocks are compiled: {what} (--no-compile leaves it out)"
        reason = f"; {self.hindrance}" if self.hindrance else ""
        return f"the blocks are not compiled: {what}{reason} (--compile does it)"


def estimate(
    config: GPTConfig,
    settings: FinetuneSettings,
    steps: int,
    shapes: Sequence[tuple[int, int]],
    processes: int = 1,
    memory_share: float = 0.0,
) -> Compiling:
    """What compiling would bring on a GPU.

    Args:
        steps: of the run.
        shapes: (rows, tokens a row) of the first batches.
        processes: that share every batch.
        memory_share: the memory account over the card's memory.
    """
    tokens = sum(rows * width for rows, width in shapes) / len(shapes) / processes
    numbers = tokens * config.emb_dim
    saved = config.n_layers * (SAVED_A_BLOCK + SAVED_A_NUMBER * numbers)
    costs = ONE_SHAPE * (MORE_SHAPES if len(set(shapes)) > 1 else 1)
    return Compiling(steps, costs, steps * saved, _hindrance(settings, memory_share))


def refuse_on(device: str) -> None:
    """Raise InputError where compiling has no use."""
    if device != "cuda":
        raise InputError(
            f"blocks are compiled on a CUDA GPU, not on {device}, where hardly two batches have "
            "one shape and each would be compiled anew; leave that option out"
        )


def _hindrance(settings: FinetuneSettings, memory_share: float) -> str:
    """What was not measured compiled, or may not fit, in a few words."""
    if settings.method not in ("lora", "full"):
        return f"not measured for {settings.method}"
    if settings.method == "lora":
        lora = settings.lora
        if lora.quantize or lora.variant != "lora" or lora.dropout:
            return "not measured with quantize, DoRA or dropout"
    if memory_share * MEMORY > 1:
        return "it may need more memory than the card has"
    compilers = (os.environ.get("CC"), "gcc", "clang", "cc")
    if not any(shutil.which(name) for name in compilers if name):
        return "it needs a C compiler"
    return ""
