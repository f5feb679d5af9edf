"""The suite of `llm.benchmark` for one GPU: this project and its peers at three shapes."""

import os
import statistics
import time
from dataclasses import replace

from llm.benchmark.runner import describe, run_worker
from llm.utils.files import write_json

BATCHES = {"gpt2-xl": 64, "gpt2": 8, "gpt2-medium": 8}  # messages a step, of 128 tokens each


def gpu(given) -> dict:
    """One GPU: three shapes, this project and its peers; then what memory grows with.

    Each library runs in a process of its own. Most telling first, for a machine on loan.
    """
    from llm.benchmark.peers import Job
    from llm.training.device import pick_device

    if not given.quick:
        pick_device("cuda")
    deadline = time.time() + given.seconds
    base = Job(device="cuda", precision="bf16", width=128, steps=10, warm_up=3)
    if given.quick:
        base = replace(base, device="cpu", width=16, steps=1, warm_up=1, layers=2)
    content: dict = {
        "device": _device(),
        "matrix_tflops": _matrix_rate(given.quick),
        "results": [],
        "ratios": {},
    }
    print(f"matrix rate {content['matrix_tflops']:.0f} TFLOP/s", flush=True)

    def report(result: dict) -> None:
        content["results"].append(result)
        content["ratios"] = _ratios(content["results"])
        passed = given.seconds - (deadline - time.time())
        print(f"{passed:4.0f} s  {describe(result)}", flush=True)
        if given.out:
            write_json(given.out, content)

    def run(jobs: list[Job]) -> None:
        if given.quick:  # the first of each kind, small enough for any machine
            small = {"shape": "mini", "batch_size": 4, "compile": False, "record": False}
            jobs = [replace(job, **small, recompute="nothing") for job in jobs[:1]]
        run_worker(jobs, 4, report, deadline)

    def peer(name: str, precision: str) -> list[Job]:
        job = replace(base, contender=name, precision=precision)
        return [replace(job, shape=shape, batch_size=size) for shape, size in BATCHES.items()]

    largest = replace(base, shape="gpt2-xl", batch_size=BATCHES["gpt2-xl"])
    small = replace(base, shape="gpt2", batch_size=BATCHES["gpt2"])
    middle = replace(base, shape="gpt2-medium", batch_size=BATCHES["gpt2-medium"])
    fast = {"compile": True, "record": True}
    account = replace(small, steps=3, account=True)
    run([replace(largest, **fast, recompute="cheap")])
    run(peer("book-fast", "autocast"))
    run([replace(job, **fast, method=m) for job in (small, middle) for m in ("lora", "full")])
    accounts = _both_methods(account) + _both_methods(replace(account, shape="gpt2-xl"))
    accounts += [replace(account, rank=rank) for rank in (1, 4, 64, 256)]
    for size in (16, 32, 64):
        accounts += _both_methods(replace(account, batch_size=size))
    for depth in (3, 6, 24):
        accounts += _both_methods(replace(account, layers=depth))
    run(accounts)
    run(peer("peft", "autocast"))
    run(peer("peft-tanh", "autocast"))
    run(peer("book-fast", "bf16"))
    run(peer("peft-tanh", "bf16"))
    for job in (small, largest):  # step by step from the plain layer
        plain = replace(job, contender="naive")
        steps = [plain, job, replace(job, record=True), replace(job, compile=True)]
        run([*steps, replace(plain, **fast), replace(job, **fast)])
    run([replace(largest, **fast, recompute="all")])
    if given.out and not given.quick:
        from llm.figures.studies import memory_growth_figure
        from llm.figures.style import save_figure

        figure = memory_growth_figure(growth(content["results"]), GROWTH_TITLES)
        save_figure(figure, given.out.with_suffix(".png"))
    return content


GROWTH_TITLES = ("Rank of A and B", "Messages a step, 128 tokens each", "Blocks")


def growth(results: list[dict]) -> dict:
    """What memory grows with, for `llm.figures.studies.memory_growth_figure`."""
    usual = {"rank": 16, "batch_size": 8, "layers": 12}
    rows: dict = {}
    for r in results:
        if "memory_account" not in r or r["shape"] != "gpt2":
            continue
        here = {**{key: r[key] for key in usual}, "layers": r["layers"] or usual["layers"]}
        row = {**here, **r["memory_account"], "measured": r["peak_memory_bytes"]}
        for quantity in usual if r["method"] == "lora" else ("batch_size", "layers"):
            if all(here[key] == usual[key] for key in usual if key != quantity):
                rows.setdefault(f"{r['method']} by {quantity}", []).append(row)
    for name, found in rows.items():
        found.sort(key=lambda row: row[name.rpartition(" ")[2]])
    return rows


def _both_methods(job) -> list:
    return [replace(job, method=method) for method in ("lora", "full")]


def _ratios(results: list[dict]) -> dict:
    """For each shape: this project's LoRA over every other, time and peak memory.

    The first result of a shape is the one to compare: at gpt2-xl the one that saves memory too.
    """
    table: dict = {}
    done = [r for r in results if "skipped" not in r and not r["account"]]
    for shape in dict.fromkeys(r["shape"] for r in done):
        here = [r for r in done if r["shape"] == shape]
        own = [r for r in here if r["contender"] == "ours" and r["method"] == "lora"]
        for other in here:
            mine = own[0] if own else other
            if _name(mine) == _name(other):
                continue
            table[f"{_name(mine)} over {_name(other)}"] = {
                "milliseconds a step": [_milliseconds(mine), _milliseconds(other)],
                "time": _milliseconds(mine) / _milliseconds(other),
                "time, fastest over slowest step and the reverse": [
                    min(mine["seconds"]) / max(other["seconds"]),
                    max(mine["seconds"]) / min(other["seconds"]),
                ],
                "peak memory": mine["peak_memory_bytes"] / other["peak_memory_bytes"],
            }
    return table


def _milliseconds(result: dict) -> float:
    return 1000 * statistics.median(result["seconds"])


def _name(result: dict) -> str:
    how = [key for key in ("compile", "record") if result[key]]
    how += [] if result["recompute"] == "nothing" else [f"recompute {result['recompute']}"]
    names = ("contender", "shape", "method", "precision")
    return ", ".join([*(result[key] for key in names), *how])


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
