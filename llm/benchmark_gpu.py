"""The suite of `llm.benchmark` for one GPU: this project and its peers at three shapes."""

import os
import statistics
import time
from dataclasses import replace

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
