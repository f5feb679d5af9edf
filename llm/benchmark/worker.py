"""One benchmark's jobs, measured in this process: `llm.benchmark.runner` starts it."""

import gc
import importlib
import json
import os
import sys
import time
from dataclasses import asdict


def measure(job) -> dict:
    """Run one job in this process.

    Returns:
        seconds and processor seconds of each step, examples a second, and bytes of peak memory:
        the CUDA allocator's, or the growth of the resident peak.
    """
    import torch

    from llm.benchmark.peers import prepare
    from llm.training.device import keep_freed_memory, peak_memory_bytes
    from llm.training.memory import memory_account, step_peak

    torch.compiler.reset()  # versions for an earlier job's shapes would count against this one
    on_gpu = job.device == "cuda"
    if on_gpu:
        gc.collect()
        _settle_gpu()
    elif job.contender == "ours":
        keep_freed_memory()
    if job.import_first:
        _import(job.contender)
    before = torch.cuda.memory_allocated() if on_gpu else peak_memory_bytes()
    step = prepare(job)
    result: dict = {**asdict(job), "torch": torch.__version__, "threads": torch.get_num_threads()}
    if job.account:
        account = memory_account(step.model, lambda: step.loss(0))
        peak = step_peak(account)
        result["memory_account"] = {**account, "peak": peak}
        if job.recompute == "all" or job.quantize:
            result["memory_account"]["passing"] = _passing(job, step.model)
    if on_gpu:  # a recording's peak is when it is made; building the model is no part of it
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
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


def _import(contender: str) -> None:
    """Load the libraries of a peer."""
    if contender.startswith(("peft", "bitsandbytes")):
        importlib.import_module("peft")
        importlib.import_module("transformers.models.gpt2.modeling_gpt2")
    if contender.startswith("bitsandbytes"):
        importlib.import_module("bitsandbytes")


def _passing(job, model) -> int:
    """`passing_memory` of a step; messages as long as they can be."""
    import torch

    from llm.training.device import autocast
    from llm.training.memory import passing_memory

    dtype = torch.bfloat16 if job.precision == "bf16" else torch.float32
    shape = (job.batch_size, job.width or 64, job.config.emb_dim)
    x = torch.zeros(shape, device=job.device, dtype=dtype)
    with autocast(job.device, "fp32" if job.precision == "fp32" else "bf16"):
        return passing_memory(model, x, job.recompute == "all")


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


def main() -> None:
    """Jobs from standard input, one JSON line of result each."""
    import torch

    from llm.benchmark.peers import Job, missing

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


if __name__ == "__main__":
    main()
