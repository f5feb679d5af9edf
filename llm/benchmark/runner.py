"""Contenders measured in fresh processes, in turn, and their ratios."""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict

MIB = 1 << 20


def run_worker(jobs: list, threads: int, report, deadline: float = float("inf")) -> list:
    """Measure jobs one after the other in one fresh process; a job that fails says why."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    lines = json.dumps({"jobs": [asdict(job) for job in jobs], "deadline": deadline})
    command = [sys.executable, "-m", "llm.benchmark.worker"]
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


def _to_stderr(result: dict) -> None:
    print(describe(result), file=sys.stderr, flush=True)


def timed(function) -> tuple[float, float]:
    """Seconds and processor seconds of one call."""
    started, used = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - started, time.process_time() - used


def spread(values: list[float]) -> dict:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}
