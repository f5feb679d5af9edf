"""The suites of `llm.benchmark` for one process on a CPU."""

import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace

from llm.benchmark.runner import FIGURES, in_turn, ratios, spread, timed
from llm.data.batching import Encoded
from llm.utils.errors import InputError


def start(given) -> dict:
    """How long `python -m llm --help` takes, beside a Python that does nothing, in seconds."""
    commands = {"help": ["-m", "llm", "--help"], "nothing": ["-c", "pass"]}
    results: dict = {name: [] for name in commands}
    for _ in range(max(given.rounds, 5)):
        for name, command in commands.items():
            before = os.times()
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
            wall = time.perf_counter() - started
            after = os.times()
            used = after.children_user - before.children_user
            used += after.children_system - before.children_system
            results[name].append({"seconds": wall, "processor_seconds": used})
    medians = {
        f"{name}: {figure}": statistics.median(run[figure] for run in runs)
        for name, runs in results.items()
        for figure in ("seconds", "processor_seconds")
    }
    return {"results": results, "ratios": medians}


def prefix(given) -> dict:
    """Five epochs of `head` and `last_block` on 128 messages: on kept hidden states of the frozen
    blocks; through all blocks; and, for comparison, full fine-tuning."""
    import torch

    from llm.benchmark.peers import real_messages
    from llm.lora.methods import apply_method
    from llm.model.classifier import GPTClassifier
    from llm.model.config import PRESETS
    from llm.training.classification import ClassificationTask
    from llm.training.loop import train
    from llm.training.settings import TrainSettings

    torch.set_num_threads(given.threads)
    every = real_messages("mini")
    messages = Encoded(every.ids[:128], every.labels[:128], 0)
    none = Encoded(every.ids[:1], every.labels[:1], 0)  # nothing is validated here

    def run(method: str, keep: bool) -> dict:
        torch.manual_seed(0)
        model = GPTClassifier(PRESETS["mini"])
        blocks = apply_method(model, method)
        started, used = time.perf_counter(), time.process_time()
        task = ClassificationTask(model, messages, none, 32, 0, blocks if keep else 0)
        history = train(model, task, TrainSettings(steps=20, lr=1e-3))
        return {
            "seconds": time.perf_counter() - started,
            "processor_seconds": time.process_time() - used,
            "losses": [point["loss"] for point in history["curve"]],
        }

    contests = {
        "head, kept": ("head", True),
        "head, all blocks": ("head", False),
        "last_block, kept": ("last_block", True),
        "last_block, all blocks": ("last_block", False),
        "full": ("full", False),
    }
    results: dict = {name: [] for name in contests}
    run("full", False)  # the first run sets the libraries up
    for _ in range(given.rounds):
        for name, (method, keep) in contests.items():
            results[name].append(run(method, keep))
    table: dict = {}
    for method in ("head", "last_block"):
        kept = results[f"{method}, kept"]
        for other in (f"{method}, all blocks", "full"):
            for figure in ("seconds", "processor_seconds"):
                pairs = zip(results[other], kept)
                values = [slow[figure] / fast[figure] for slow, fast in pairs]
                table[f"{other} over {method} kept: {figure}"] = spread(values)
        table[f"{method}: largest difference of a loss"] = max(
            abs(a - b)
            for slow, fast in zip(results[f"{method}, all blocks"], kept)
            for a, b in zip(slow["losses"], fast["losses"])
        )
    return {"results": results, "ratios": table}


def inference(given) -> dict:
    """A merged adapter against the base, prediction in sorted batches, generation with a cache."""
    import torch

    from llm.benchmark.peers import real_messages
    from llm.data.batching import collate
    from llm.inference.evaluation import classify
    from llm.inference.generate import generate
    from llm.lora.inject import merge, replace_linear_with_lora
    from llm.model.classifier import GPTClassifier
    from llm.model.config import PRESETS

    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    config = PRESETS[given.shape]
    base, merged = (GPTClassifier(config).eval() for _ in range(2))
    replace_linear_with_lora(merged, 16, 16)
    merge(merged)
    every = real_messages(given.shape)
    count = given.messages
    ids = [every.ids[i % len(every)] for i in range(count)]
    messages = Encoded(ids, [0] * count, 0)
    some = Encoded(ids[:100], [0] * 100, 0)
    longest = max(map(len, ids))

    @torch.no_grad()
    def padded(model) -> None:
        model.packed = False
        for first in range(0, count, 8):
            batch = collate(messages, range(first, min(first + 8, count)), width=longest)
            model(batch.ids, batch.lengths)
        model.packed = None

    prompt = torch.randint(0, config.vocab_size, (1, 20))

    def text(cached: bool) -> None:
        generate(base.body, prompt, 200, temperature=0.0, use_cache=cached)

    contests = {
        "merged over base": (lambda: classify(merged, some), lambda: classify(base, some), 5),
        "padded eights over sorted": (lambda: padded(base), lambda: classify(base, messages), 1),
        "no cache over cache": (lambda: text(False), lambda: text(True), 1),
    }
    table: dict = {}
    for name, (one, other, repeats) in contests.items():
        other()  # the first call sets the libraries up
        runs = [(timed(one), timed(other)) for _ in range(given.rounds * repeats)]
        for i, figure in enumerate(("seconds", "processor_seconds")):
            table[f"{name}: {figure}"] = spread([a[i] / b[i] for a, b in runs])
    return {"results": {}, "ratios": table}


def memory(given) -> dict:
    """What the memory of a step grows with: rank, batch and depth, counted at GPT-2 124M."""
    from llm.benchmark.peers import Job, prepare
    from llm.figures.studies import memory_growth_figure
    from llm.figures.style import save_figure
    from llm.training.memory import memory_account, step_peak

    base = Job(shape="gpt2", width=128)
    series = {
        "rank": [4, 16, 64, 256],
        "batch_size": [2, 4, 8],
        "layers": [3, 6, 12],
    }
    results: dict = {}
    for quantity, values in series.items():
        methods = ("lora",) if quantity == "rank" else ("lora", "full")
        for method in methods:
            rows = []
            for value in values:
                step = prepare(replace(base, method=method, **{quantity: value}))
                account = memory_account(step.model, lambda step=step: step.loss(0))
                rows.append({quantity: value, **account, "peak": step_peak(account)})
            results[f"{method} by {quantity}"] = rows
    if given.out:
        titles = ("Rank of A and B", "Messages a step, 5 to 128 tokens each", "Blocks")
        save_figure(memory_growth_figure(results, titles), given.out.with_suffix(".png"))
    return {"results": results, "ratios": {}}


def mini(given) -> dict:
    """LoRA here against the peers' LoRA, the plain layer, and full training, at the bundled shape.

    `given`: the options of `llm.benchmark`.
    """
    return _training("mini", 32, given)


def gpt2(given) -> dict:
    """The same at GPT-2 124M."""
    return _training("gpt2", 8, given)


def _training(shape: str, batch_size: int, given) -> dict:
    from llm.benchmark.peers import Job

    base = Job(shape=shape, steps=given.steps, rank=16, batch_size=batch_size)
    only = given.only.split(",") if given.only else []
    names = ("ours", "naive", "book", "peft-padded", "peft")
    jobs = {name: replace(base, contender=name) for name in names}
    jobs["full"] = replace(base, method="full")
    unknown = [name for name in only if name not in jobs]
    if unknown:
        raise InputError(f"no contender is called {unknown[0]!r}; choose from {', '.join(jobs)}")
    jobs = {name: job for name, job in jobs.items() if not only or name in only}
    results = in_turn(jobs, given.rounds, given.threads)
    table = {
        f"ours over {other}": {
            title: ratios(results, "ours", other, figure) for title, figure in FIGURES.items()
        }
        for other in jobs
        if other != "ours" and other in results
    }
    table["naive over full"] = {
        title: ratios(results, "naive", "full", figure) for title, figure in FIGURES.items()
    }
    return {"results": results, "ratios": table}
