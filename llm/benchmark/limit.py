"""The suite of `llm.benchmark` for what a CPU could do at best: where a fine-tuning's seconds go.

    python -m llm.benchmark limit --threads 2 --out limit.json

A step cannot be faster than its matrix products. They are counted, each is timed by itself at the
shape it has in a step, and the step is timed as `finetune` takes it: real messages, the bundled
base's shape, the default recipe. Two limits come of it:

* `products`: the sum of the products, each at its own rate;
* `arithmetic`: the same multiplications at the rate of one large square product, which no thin
  product reaches.

What is left over is GELU, LayerNorm, attention, the softmax of the next-token loss, the optimizer
and memory. A profile of a step says how much each takes.
"""

import math
import statistics
import time
from collections import Counter
from typing import NamedTuple

import torch

from llm.benchmark.peers import real_messages
from llm.benchmark.runner import spread
from llm.data.batching import Encoded
from llm.lora.methods import LoRASettings, apply_method
from llm.model.classifier import GPTClassifier
from llm.model.config import PRESETS, GPTConfig
from llm.training.classification import ClassificationTask
from llm.training.device import keep_freed_memory
from llm.training.next_token import TOKENS
from llm.training.settings import BATCH_SIZE, FinetuneSettings, TrainSettings
from llm.training.step import OptimizerStep, make_optimizer

KINDS = {  # of operations in a profile, by a part of their names; the first that fits
    "products": ("mm", "linear"),
    "attention": ("attention",),
    "GELU": ("gelu",),
    "LayerNorm": ("layer_norm",),
    "optimizer": ("adamw", "Optimizer", "_foreach", "norm"),
    "softmax of the next tokens": ("exp", "amax", "aten::log", "sub", "gather", "scatter"),
    "copies": ("copy", "cat", "clone", "embedding", "index", "zero", "fill"),
    "sums and scales": ("add", "mul", "div", "sum"),
}


class Product(NamedTuple):
    """(m, k) times (k, n), so many times a step."""

    part: str  # "W", "A and B", "next tokens", "pool and head"
    m: int
    k: int
    n: int
    times: int = 1

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * self.m * self.k * self.n * self.times


def products(config: GPTConfig, lengths: list[int], method: str, rank: int) -> list[Product]:
    """Every matrix product of a step on packed messages, by the default recipe.

    Args:
        lengths: tokens of each message of the batch.
        method: "lora", its targets all Linears of the blocks, or "full".
    """
    d, blocks, tokens, messages = config.emb_dim, config.n_layers, sum(lengths), len(lengths)
    full = method == "full"
    found = []
    # Layers that read the same x, and into how many numbers each turns it.
    for n_in, outs in ((d, (d, d, d)), (d, (d,)), (d, (4 * d,)), (4 * d, (d,))):
        # Nothing asks for the gradient of the first block's input where embeddings are frozen.
        backward = blocks if full or len(outs) == 1 else blocks - 1
        for n_out in outs:
            found.append(Product("W", tokens, n_in, n_out, blocks))
            found.append(Product("W", tokens, n_out, n_in, backward))
            if full:
                found.append(Product("W", n_out, tokens, n_in, blocks))
                continue
            found.append(Product("A and B", tokens, rank, n_out, blocks))  # (x A) B
            found.append(Product("A and B", rank, n_out, tokens, blocks))  # gradient of x A
            found.append(Product("A and B", rank, tokens, n_out, blocks))  # gradient of B
        if not full:
            ranks = rank * len(outs)
            found.append(Product("A and B", ranks, n_in, tokens, blocks))  # x A
            found.append(Product("A and B", ranks, tokens, n_in, blocks))  # gradient of A
            found.append(Product("A and B", tokens, ranks, n_in, backward))  # and of x
    places, vocabulary = tokens - messages, config.vocab_size
    whole, rest = divmod(places, TOKENS)
    for chunk, times in ((TOKENS, whole), (rest, 1)):
        if chunk and times:
            found.append(Product("next tokens", chunk, d, vocabulary, times))
            found.append(Product("next tokens", chunk, vocabulary, d, times))
            if full:
                found.append(Product("next tokens", vocabulary, chunk, d, times))
    head = [(messages, tokens, d), (tokens, messages, d)]
    head += [(messages, d, 2), (messages, 2, d), (2, messages, d)]
    return found + [Product("pool and head", *shape) for shape in head]


def limit(given) -> dict:
    """The suite. `given`: the options `rounds`, `steps`, `threads`, `quick` (a tiny shape).

    Returns:
        `results`, each method's rounds, and `ratios`: of each method its seconds a step, both
        limits, the step over each, the sum of each part's products, and the profile's seconds.
    """
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    config = GPTConfig(8192, 64, 16, 2, 2) if given.quick else PRESETS["mini"]
    every = real_messages("mini")
    messages = Encoded([ids[: config.context_length] for ids in every.ids], every.labels, 0)
    results: dict = {"square_operations_a_second": [], "lora": [], "full": []}
    prepared = {method: _prepared(config, messages, method) for method in ("lora", "full")}
    for take, _ in prepared.values():
        take(0)
    for _ in range(given.rounds):
        rate = _square_rate(128 if given.quick else 2048)
        results["square_operations_a_second"].append(rate)
        for method, (take, lengths) in prepared.items():
            results[method].append(_round(config, method, take, lengths, given.steps, rate))
    table = {}
    for method, (take, _) in prepared.items():
        rows = results[method]
        table[method] = {
            name: spread([row[name] for row in rows])
            for name in ("seconds", "products", "arithmetic", "over products", "over arithmetic")
        }
        table[method]["products by part"] = rows[0]["by part"]
        table[method]["profile, seconds"] = _profile(take)
    return {"results": results, "ratios": table, "torch": torch.__version__}


def _prepared(config: GPTConfig, messages: Encoded, method: str):
    """(take step number i, the lengths of its messages) as `finetune` would at its defaults."""
    usual = FinetuneSettings()
    torch.manual_seed(0)
    model = GPTClassifier(config, pool=usual.pool)
    apply_method(model, method, LoRASettings())
    nothing = Encoded(messages.ids[:1], messages.labels[:1], 0)  # it is not validated here
    task = ClassificationTask(model, messages, nothing, BATCH_SIZE, 0, lm_loss=usual.lm_loss)
    settings = TrainSettings(steps=99, lr=1e-4)
    step = OptimizerStep(model.train(), task, make_optimizer(model, settings), settings)
    return lambda i: step.take(i, 1e-4), lambda i: task.batch(i).batch.lengths.tolist()


def _round(config, method, take, lengths, steps: int, rate: float) -> dict:
    """Steps and, after them, their products: seconds a step of both."""
    started = time.perf_counter()
    for i in range(1, steps + 1):
        take(i)
    seconds = (time.perf_counter() - started) / steps
    # The products of one batch of as many tokens as the batches have on average.
    batches = [lengths(i) for i in range(1, steps + 1)]
    mean = statistics.mean(map(sum, batches))
    typical = min(batches, key=lambda batch: abs(sum(batch) - mean))
    found = products(config, typical, method, LoRASettings().rank)
    by_part: Counter = Counter()
    timed = {shape: _seconds(*shape) for shape in {product[1:4] for product in found}}
    for product in found:
        by_part[product.part] += product.times * timed[product[1:4]] * mean / sum(typical)
    total = sum(by_part.values())
    operations = sum(product.operations for product in found) * mean / sum(typical)
    return {
        "seconds": seconds,
        "tokens": mean,
        "operations": operations,
        "products": total,
        "by part": dict(by_part),
        "arithmetic": operations / rate,
        "over products": seconds / total,
        "over arithmetic": seconds * rate / operations,
    }


def _seconds(m: int, k: int, n: int) -> float:
    """Of one product in float32, the median of several."""
    a, b = torch.randn(m, k), torch.randn(k, n)
    once = _time(lambda: a @ b)
    repeats = max(3, min(200, math.ceil(0.02 / max(once, 1e-6))))
    return statistics.median(_time(lambda: a @ b) for _ in range(repeats))


def _square_rate(size: int) -> float:
    return 2 * size**3 / _seconds(size, size, size)


def _time(function) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _profile(take) -> dict:
    """Seconds of one step by kind of operation, without what an operation calls."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        take(1)
    seconds: Counter = Counter()
    for event in found.key_averages():
        fitting = (kind for kind, parts in KINDS.items() if any(p in event.key for p in parts))
        seconds[next(fitting, "the rest")] += event.self_cpu_time_total / 1e6
    return dict(seconds.most_common())
