"""The suite of `llm.benchmark` for several cards: what LoRA saves on the wire.

    torchrun --nproc-per-node 2 -m llm.benchmark gpus --out gpus.json

Every process computes the gradients of its part of a batch, then all add them up
(`llm.training.distributed.sum_gradients`). Full fine-tuning exchanges a number for every weight,
LoRA for the few that it trains. Measured are 1, 2, 4, ... cards up to as many as torchrun started:

* weak scaling: each card works on 64 messages, so more cards do more in the same time;
* strong scaling: all cards share 256 messages, so more cards take less time.
"""

import gc
import os
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F

from llm.lora.methods import LoRASettings, apply_method
from llm.model.classifier import GPTClassifier
from llm.model.config import PRESETS, GPTConfig
from llm.training import distributed
from llm.training.settings import TrainSettings
from llm.training.speed import compile_blocks, keep_frozen_in_bfloat16, recompute_cheap
from llm.training.step import OptimizerStep, make_optimizer
from llm.utils.files import write_json

TOKENS = 128  # a message
WEAK, STRONG = 64, 256  # messages a card, messages in all
QUICK = GPTConfig(50, 16, 16, 2, 2)


@dataclass(frozen=True)
class Case:
    """One measurement: a method at a shape on so many cards."""

    shape: str
    method: str
    scaling: str  # "weak" or "strong"
    cards: int
    messages: int  # in all
    rank: int = 16


class Rows(NamedTuple):
    """A card's part of a batch, and what each message weighs in the mean loss."""

    ids: torch.Tensor  # (batch, tokens)
    lengths: torch.Tensor  # (batch,)
    labels: torch.Tensor  # (batch,)
    weight: torch.Tensor


class RandomMessages:
    """A task for `llm.training.step`: random tokens, made once, the same in every step."""

    def __init__(self, config: GPTConfig, messages: int, device: torch.device):
        draw = torch.Generator().manual_seed(0)
        tokens = min(TOKENS, config.context_length)
        ids = torch.randint(config.vocab_size, (messages, tokens), generator=draw)
        labels = torch.randint(2, (messages,), generator=draw)
        self.rows = Rows(
            ids.to(device),
            torch.full((messages,), tokens, device=device),
            labels.to(device),
            torch.tensor(1 / messages, device=device),
        )

    def batch(self, step: int, micro_batch: int = 0, micro_batches: int = 1) -> Rows:
        """Every `micro_batches`-th message: all parts have the same shape."""
        *rows, weight = self.rows
        return Rows(*(tensor[micro_batch::micro_batches] for tensor in rows), weight)

    def loss(self, model: GPTClassifier, batch: Rows) -> torch.Tensor:
        """This part's share of the mean loss."""
        logits = model(batch.ids, batch.lengths)  # (batch, 2)
        return F.cross_entropy(logits.float(), batch.labels, reduction="sum") * batch.weight


def gpus(given) -> dict:
    """The suite. The first process prints, and writes after every case.

    Args:
        given: the command line's options: `steps`, `out`, `quick` (tiny shapes, on any device),
            `seconds` (no case is begun after).

    Returns:
        `results`, a case each, and `ratios`: steps a second, or messages a second, of several
        cards over one.
    """
    with distributed.team():
        started = time.time()
        content: dict = {"device": _device(), "torch": torch.__version__, "tokens": TOKENS}
        content |= {"results": [], "ratios": {}}
        for case in cases(dist.get_world_size() if dist.is_initialized() else 1, given.quick):
            late = torch.tensor(float(time.time() - started > given.seconds), device=_place())
            if distributed.sum_over_processes(late) > 0:
                break
            with distributed.part_of_team(case.cards) as taking_part:
                found = measure(case, given) if taking_part else None
            if dist.is_initialized():
                dist.barrier()
            if found and distributed.is_main_process():
                content["results"].append(found)
                content["ratios"] = ratios(content["results"])
                print(f"{time.time() - started:4.0f} s  {describe(found)}", flush=True)
                if given.out:
                    write_json(given.out, content)
        if given.out and distributed.is_main_process():
            draw(content, given.out)
    return content


def draw(content: dict, out: Path) -> None:
    """The figure of a result, beside its file."""
    from llm.figures.cards import scaling_figure
    from llm.figures.style import save_figure

    save_figure(scaling_figure(content["results"]), out.with_suffix(".png"))


def cases(world: int, quick: bool) -> list[Case]:
    """All measurements for up to `world` cards, the most telling first."""
    counts = [cards for cards in (1, 2, 4, 8, 16) if cards <= world]
    kinds = [("gpt2-xl", "weak"), ("gpt2-medium", "strong"), ("gpt2-medium", "weak")]
    kinds += [("gpt2-xl", "strong"), ("gpt2", "strong"), ("gpt2", "weak")]
    found = [
        Case(shape, method, scaling, cards, WEAK * cards if scaling == "weak" else STRONG)
        for shape, scaling in kinds
        for method in ("lora", "full")
        for cards in counts
    ]
    if quick:
        found = [replace(case, messages=4 * case.cards, rank=2) for case in found]
        found = [case for case in found if case.shape == "gpt2"]
    return found


def measure(case: Case, given) -> dict:
    """Train a few steps, and take the exchange's time by itself."""
    device = torch.device(_place())
    on_gpu = device.type == "cuda"
    torch.compiler.reset()
    if on_gpu:
        gc.collect()  # a compiled model holds itself
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    config = QUICK if given.quick else PRESETS[case.shape]
    try:
        with device:
            model = GPTClassifier(config)
            apply_method(model, case.method, LoRASettings(case.rank, 16))
        if on_gpu:
            keep_frozen_in_bfloat16(model)
            recompute_cheap(model)
            compile_blocks(model)
        precision = "bf16" if on_gpu else "fp32"
        settings = TrainSettings(steps=99, lr=1e-5, precision=precision, cuda_graphs=on_gpu)
        optimizer = make_optimizer(model.train(), settings)
        task = RandomMessages(config, case.messages, device)
        step = OptimizerStep(model, task, optimizer, settings)
        for _ in range(3):
            step.take(0, 1e-5)
        before = step.exchanged_bytes
        seconds = [_timed(lambda: step.take(0, 1e-5)) for _ in range(given.steps)]
        exchanged = (step.exchanged_bytes - before) // given.steps
        for parameter in step.trainable:
            parameter.grad = torch.zeros_like(parameter)
        exchange = [
            _timed(lambda: distributed.sum_gradients(step.trainable)) for _ in range(given.steps)
        ]
    except torch.cuda.OutOfMemoryError as error:
        return {**asdict(case), "skipped": f"out of memory: {str(error)[:100]}"}
    median = statistics.median(seconds)
    return {
        **asdict(case),
        "trained_numbers": sum(p.numel() for p in step.trainable),
        "seconds": seconds,
        "messages_per_second": case.messages / median,
        "exchanged_bytes": exchanged,
        "exchange_seconds": exchange if case.cards > 1 else [0.0],
        "exchange_share": statistics.median(exchange) / median if case.cards > 1 else 0.0,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else 0,
    }


def ratios(results: list[dict]) -> dict:
    """Messages a second on several cards over those on one, for each shape, method and scaling.

    With the slowest of one over the fastest of the other, and the reverse.
    """
    found = {}
    done = [row for row in results if "skipped" not in row]
    key = ("shape", "method", "scaling")
    alone = {tuple(row[name] for name in key): row for row in done if row["cards"] == 1}
    for row in done:
        one = alone.get(tuple(row[name] for name in key))
        if one is None or row["cards"] == 1:
            continue
        work = row["messages"] / one["messages"]
        name = f"{row['shape']}, {row['method']}, {row['scaling']}, {row['cards']} cards over one"
        found[name] = {
            "median": work * statistics.median(one["seconds"]) / statistics.median(row["seconds"]),
            "low": work * min(one["seconds"]) / max(row["seconds"]),
            "high": work * max(one["seconds"]) / min(row["seconds"]),
        }
    return found


def describe(row: dict) -> str:
    """One line for people."""
    name = f"{row['shape']:<11} {row['method']:<4} {row['scaling']:<6} {row['cards']} cards"
    if "skipped" in row:
        return f"{name}: {row['skipped']}"
    return (
        f"{name}: {1000 * statistics.median(row['seconds']):7.1f} ms a step, "
        f"{row['messages_per_second']:7.0f} messages/s, {row['exchanged_bytes'] / 1e6:8.1f} MB "
        f"exchanged in {100 * row['exchange_share']:.1f} % of it, "
        f"{row['peak_memory_bytes'] / 2**30:.1f} GiB"
    )


def _timed(function) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _place() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else os.uname().machine
