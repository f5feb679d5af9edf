"""The suites of `llm.benchmark` that are no plain contest of training on a CPU."""

import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace

from llm.batching import Encoded
from llm.benchmark import describe, run_worker
from llm.files import write_json


def gpu(given) -> dict:
    """One GPU: three shapes, this project and its peers; then what memory grows with.

    Each library runs in one fresh process. Most telling first, for a machine on loan.
    """
    from llm.peers import Job

    deadline = time.time() + given.seconds
    base = Job(device="cuda", precision="bf16", batch_size=64, width=128, steps=10, warm_up=3)
    if given.quick:
        base = replace(base, device="cpu", batch_size=4, width=16, steps=1, warm_up=1, layers=2)
    shapes = ["mini"] if given.quick else ["gpt2-xl", "gpt2", "gpt2-medium"]
    record = not given.quick
    jobs = []
    for shape in shapes:
        job = replace(base, shape=shape, batch_size=64 if shape == "gpt2-xl" else 8)
        fast = replace(job, compile=not given.quick)
        if shape == "gpt2-xl":
            jobs += [replace(fast, recompute="cheap"), fast, replace(fast, recompute="all")]
        else:
            jobs += [replace(fast, record=record), replace(fast, record=record, method="full")]
    memory = replace(base, shape="gpt2", batch_size=8, steps=3, account=True)
    accounts = [memory, replace(memory, method="full")]
    accounts += [replace(memory, shape="gpt2-xl"), replace(memory, shape="gpt2-xl", method="full")]
    grows = [replace(memory, rank=rank) for rank in (1, 4, 64, 256)]
    grows += [
        replace(memory, batch_size=batch, method=method)
        for batch in (16, 32, 64)
        for method in ("lora", "full")
    ]
    grows += [
        replace(memory, layers=layers, method=method)
        for layers in (3, 6, 24)
        for method in ("lora", "full")
    ]
    if given.quick:
        accounts = [replace(job, shape="mini", width=16, layers=2) for job in accounts]
        grows = [replace(job, shape="mini", width=16, layers=2) for job in grows[::3]]
    rate = _matrix_rate(given.quick)
    content: dict = {"device": _device(), "matrix_tflops": rate, "results": [], "ratios": {}}
    print(f"matrix rate {rate:.0f} TFLOP/s", flush=True)

    def report(result: dict) -> None:
        content["results"].append(result)
        passed = given.seconds - (deadline - time.time())
        print(f"{passed:4.0f} s  {describe(result)}", flush=True)
        if given.out:
            write_json(given.out, content)

    def peer(name: str) -> list[Job]:
        of_shape = [(shape, 64 if shape == "gpt2-xl" else 8) for shape in shapes]
        return [
            replace(base, contender=name, shape=shape, batch_size=batch)
            for shape, batch in of_shape
        ]

    ours, later = jobs[:1] + jobs[3:5], jobs[1:3] + jobs[5:]
    run_worker(ours[:1], 4, report, deadline)
    run_worker(peer("book-fast"), 4, report, deadline)
    run_worker(ours[1:], 4, report, deadline)
    run_worker(accounts, 4, report, deadline)
    run_worker(peer("peft-tanh"), 4, report, deadline)
    run_worker(later + grows, 4, report, deadline)
    run_worker(peer("peft"), 4, report, deadline)
    return content


def _matrix_rate(quick: bool) -> float:
    """TFLOP/s of a large bfloat16 product on random numbers: what this card can do at most."""
    import torch

    size, device = (256, "cpu") if quick else (8192, "cuda")
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    times = []
    for _ in range(10):
        if not quick:
            torch.cuda.synchronize()
        started = time.perf_counter()
        a @ b
        if not quick:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    del a, b
    return 2 * size**3 / statistics.median(times) / 1e12


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else os.uname().machine


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
    """Five epochs of `head` and `last_block`: through the whole body, or on kept hidden states."""
    import torch

    from llm.classification import ClassificationTask
    from llm.classifier import GPTClassifier
    from llm.config import PRESETS
    from llm.methods import apply_method
    from llm.peers import real_messages
    from llm.training import TrainSettings, train

    torch.set_num_threads(given.threads)
    every = real_messages("mini")
    messages = Encoded(every.ids[:320], every.labels[:320], 0)
    table: dict = {}
    results: dict = {}
    for method in ("head", "last_block"):
        runs: dict = {"kept": [], "whole body": []}
        for _ in range(given.rounds):
            for name, list_of_runs in runs.items():
                torch.manual_seed(0)
                model = GPTClassifier(PRESETS["mini"])
                blocks = apply_method(model, method)
                started, used = time.perf_counter(), time.process_time()
                kept = blocks if name == "kept" else 0
                task = ClassificationTask(model, messages, messages, 32, 0, kept)
                history = train(model, task, TrainSettings(steps=50, lr=1e-3))
                list_of_runs.append(
                    {
                        "seconds": time.perf_counter() - started,
                        "processor_seconds": time.process_time() - used,
                        "losses": [point["loss"] for point in history["curve"]],
                    }
                )
        results[method] = runs
        pairs = list(zip(runs["whole body"], runs["kept"]))
        for figure in ("seconds", "processor_seconds"):
            table[f"{method}: {figure}"] = spread([a[figure] / b[figure] for a, b in pairs])
        table[f"{method}: largest difference of a loss"] = max(
            abs(a - b) for whole, kept in pairs for a, b in zip(whole["losses"], kept["losses"])
        )
    return {"results": results, "ratios": table}


def inference(given) -> dict:
    """A merged adapter against the base, prediction in sorted batches, generation with a cache."""
    import torch

    from llm.batching import collate
    from llm.classifier import GPTClassifier
    from llm.config import PRESETS
    from llm.evaluation import classify
    from llm.generate import generate
    from llm.lora import merge, replace_linear_with_lora
    from llm.peers import real_messages

    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    config = PRESETS["mini"]
    base, merged = (GPTClassifier(config).eval() for _ in range(2))
    replace_linear_with_lora(merged, 16, 16)
    merge(merged)
    every = real_messages("mini")
    five_thousand = [every.ids[i % len(every)] for i in range(5000)]
    messages = Encoded(five_thousand, [0] * 5000, 0)
    some = Encoded(five_thousand[:640], [0] * 640, 0)
    longest = max(map(len, five_thousand))

    @torch.no_grad()
    def padded(model) -> None:
        model.packed = False
        for first in range(0, 5000, 8):
            batch = collate(messages, range(first, first + 8), width=longest)
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


def timed(function) -> tuple[float, float]:
    """Seconds and processor seconds of one call."""
    started, used = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - started, time.process_time() - used


def spread(values: list[float]) -> dict:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}
