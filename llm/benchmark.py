"""Speed and memory of this project beside its peers: `python -m llm.benchmark SUITE --out FILE`.

Suites: `mini` and `gpt2` (training on a CPU), `prefix` (cached frozen blocks), `inference`,
`start` (the command line), `memory` (what it grows with), `gpu` (one GPU). Every contender runs in
a fresh process, all in turn and round after round, on the same messages; what is reported are the
medians of the ratios within a round, with the lowest and the highest. (`gpu` runs each library
once, in a process of its own, and compares medians of steps.) Weights are random: speed
does not depend on them.

A machine that others use too disturbs wall-clock time. Ratios of processor time (`--threads 1`)
hardly suffer, so both are kept.
"""

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from llm.cli import Parser, positive
from llm.config import PRESETS
from llm.errors import InputError
from llm.files import make_folder, write_json

MIB = 1 << 20


def measure(job) -> dict:
    """Run one job in this process.

    Returns:
        seconds and processor seconds of each step, examples a second, and bytes of peak memory:
        the CUDA allocator's, or the growth of the resident peak.
    """
    import torch

    from llm.device import keep_freed_memory, peak_memory_bytes
    from llm.measure import memory_account, step_peak
    from llm.peers import prepare

    torch.compiler.reset()  # versions for an earlier job's shapes would count against this one
    on_gpu = job.device == "cuda"
    if on_gpu:
        gc.collect()
        _settle_gpu()
    elif job.contender == "ours":
        keep_freed_memory()
    before = torch.cuda.memory_allocated() if on_gpu else peak_memory_bytes()
    step = prepare(job)
    result: dict = {**asdict(job), "torch": torch.__version__, "threads": torch.get_num_threads()}
    if job.account:
        account = memory_account(step.model, lambda: step.loss(0))
        result["memory_account"] = {**account, "peak": step_peak(account)}
    started = time.perf_counter()
    for i in range(job.warm_up):
        step.run(i)
    if on_gpu:
        torch.cuda.synchronize()
        if not job.record:  # a replay asks for no memory: its peak was when it was recorded
            torch.cuda.reset_peak_memory_stats()
    result["warm_up_seconds"] = time.perf_counter() - started
    wall, cpu, losses = [], [], []
    for i in range(job.warm_up, job.warm_up + job.steps):
        a, b = time.perf_counter(), time.process_time()
        loss = step.run(i)
        if on_gpu:
            torch.cuda.synchronize()
        wall.append(time.perf_counter() - a)
        cpu.append(time.process_time() - b)
        losses.append(float(loss))
    peak = peak_memory_bytes(job.device) - before
    tokens = sum(step.tokens(i) for i in range(job.warm_up, job.warm_up + job.steps))
    return {
        **result,
        "seconds": wall,
        "processor_seconds": cpu,
        "examples_per_second": job.batch_size * job.steps / sum(wall),
        "real_tokens": tokens,
        "peak_memory_bytes": peak,
        "losses": losses,
    }


def _settle_gpu() -> None:
    """Free what an earlier job left, and let the matrix library take its scratch memory.

    It takes 32 MiB for the forward pass and as much for the backward pass, which belong to no job.
    """
    import torch

    gc.collect()
    weight = torch.ones(64, 64, device="cuda", requires_grad=True)
    for dtype in (torch.float32, torch.bfloat16):
        torch.addmm(weight[0].to(dtype), weight.to(dtype), weight.to(dtype)).sum().backward()
    del weight
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def run_worker(jobs: list, threads: int, report, deadline: float = float("inf")) -> list:
    """Measure jobs one after the other in one fresh process; a job that fails says why."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    lines = json.dumps({"jobs": [asdict(job) for job in jobs], "deadline": deadline})
    command = [sys.executable, "-m", "llm.benchmark", "worker"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    process.stdin.write(lines + "\n")
    process.stdin.close()
    results = []
    for line in process.stdout:
        if line.startswith("{"):
            results.append(json.loads(line))
            report(results[-1])
    process.wait()
    return results


def worker() -> None:
    """Jobs from standard input, one JSON line of result each."""
    import torch

    from llm.peers import Job, missing

    given = json.loads(sys.stdin.readline())
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    for content in given["jobs"]:
        job = Job(**content)
        reason = missing(job.contender)
        if time.time() > given["deadline"]:
            reason = "skipped: the time given to this benchmark is over"
        if reason:
            result = {**content, "skipped": reason}
        else:
            try:
                result = measure(job)
            except Exception as error:
                result = {**content, "skipped": f"{type(error).__name__}: {error}"[:600]}
        print(json.dumps(result), flush=True)


def describe(result: dict) -> str:
    """One line for people."""
    extras = [key for key in ("compile", "record", "account") if result[key]]
    name = (
        f"{result['contender']:<11} {result['shape']:<11} {result['method']:<5}"
        f" rank {result['rank']:<3} batch {result['batch_size']:<3}"
        f" {result['precision']} {' '.join(extras)} recompute {result['recompute']}"
        + (f" layers {result['layers']}" if result["layers"] else "")
    )
    if "skipped" in result:
        return f"{name}: {result['skipped']}"
    ms = 1000 * statistics.median(result["seconds"])
    line = f"{name}: {ms:.1f} ms a step, {result['peak_memory_bytes'] / MIB:.0f} MiB"
    line += f", first {result['warm_up_seconds']:.0f} s"
    if "memory_account" in result:
        line += f", account {result['memory_account']['peak'] / MIB:.0f} MiB"
    return line


def in_turn(jobs: dict, rounds: int, threads: int) -> dict:
    """Every job once a round, each in a fresh process.

    Returns:
        results by name, one a round; jobs that cannot run are left out, and said.
    """
    results: dict = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            if name in results:
                (result,) = run_worker([job], threads, report=_to_stderr) or [None]
                if result is None or "skipped" in result:
                    del results[name]
                else:
                    results[name].append(result)
    return results


def ratios(results: dict, name: str, other: str, figure) -> dict | None:
    """`figure` of one contender over that of another, round by round: median, lowest, highest."""
    if name not in results or other not in results:
        return None
    pairs = zip(results[name], results[other])
    values = [figure(mine) / figure(theirs) for mine, theirs in pairs]
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


FIGURES = {
    "examples a second": lambda r: r["examples_per_second"],
    "examples a processor second": lambda r: (
        r["batch_size"] * r["steps"] / sum(r["processor_seconds"])
    ),
    "peak memory": lambda r: r["peak_memory_bytes"],
}


def training(shape: str, rounds: int, threads: int, steps: int, only: list[str]) -> dict:
    """`mini` and `gpt2`: LoRA here against the peers' LoRA, the plain layer, and full training."""
    from llm.peers import Job

    base = Job(shape=shape, steps=steps, rank=16, batch_size=32 if shape == "mini" else 8)
    names = ("ours", "naive", "book", "peft-padded", "peft")
    jobs = {name: replace(base, contender=name) for name in names}
    jobs["full"] = replace(base, method="full")
    unknown = [name for name in only if name not in jobs]
    if unknown:
        raise InputError(f"no contender is called {unknown[0]!r}; choose from {', '.join(jobs)}")
    jobs = {name: job for name, job in jobs.items() if not only or name in only}
    results = in_turn(jobs, rounds, threads)
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


def _to_stderr(result: dict) -> None:
    print(describe(result), file=sys.stderr, flush=True)


def main() -> None:
    """Run a suite, print its ratios, and keep everything in a file."""
    parser = Parser(prog="python -m llm.benchmark", description=__doc__)
    suites = ("mini", "gpt2", "prefix", "inference", "start", "memory", "gpu")
    parser.add_argument("suite", choices=[*suites, "worker"], metavar="{" + ",".join(suites) + "}")
    parser.add_argument("--out", type=Path, help="result file (JSON)")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--steps", type=positive, default=5, help="optimiser steps a round")
    parser.add_argument("--threads", type=positive, default=os.cpu_count())
    parser.add_argument("--only", help="mini, gpt2: contenders, such as ours,full")
    parser.add_argument("--messages", type=positive, default=5000, help="inference: to predict")
    parser.add_argument("--shape", choices=PRESETS, default="mini", help="inference: of the model")
    parser.add_argument("--seconds", type=float, default=600, help="gpu: begin no job after")
    parser.add_argument("--quick", action="store_true", help="gpu: tiny shapes, on any device")
    given = parser.parse_args()
    if given.suite == "worker":
        worker()
        return
    from llm import benchmark_gpu, benchmark_suites

    if given.out:
        make_folder(given.out.parent)  # what cannot be written is refused before the work
    if given.suite in ("mini", "gpt2"):
        only = given.only.split(",") if given.only else []
        content = training(given.suite, given.rounds, given.threads, given.steps, only)
    elif given.suite == "gpu":
        content = benchmark_gpu.gpu(given)
    else:
        content = getattr(benchmark_suites, given.suite)(given)
    print(json.dumps(content["ratios"], indent=1))
    if given.out:
        write_json(given.out, content)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
