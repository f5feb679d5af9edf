"""The suite of `llm.benchmark` for a machine that does other things too.

    python -m llm.benchmark busy --rounds 3 --out busy.json

Each command runs alone, and again while an endless loop holds one of the cores. Beside this project
as it comes, the same with threads that spin while they wait for one another (PyTorch's own
default; `llm/__init__.py` says why it is changed), and a peer.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

from llm.benchmark.peers import Job
from llm.benchmark.runner import run_worker, spread
from llm.utils.paths import ROOT

# As long as libgomp lets a thread spin at the end of parallel work where nothing is set.
SPINNING = {"GOMP_SPINCOUNT": "300000"}


def busy(given) -> dict:
    """Seconds of whole commands alone and beside a busy loop, and the ratios.

    Args:
        given: the command line's options: `rounds`, `messages` (to predict), `steps` (of the
            peer), `threads`.
    """
    results: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "messages.txt"
        lines.write_text(
            "Are we still meeting at the station at 8? Bring the book\n" * given.messages
        )
        for number in range(given.rounds):
            for place, (name, run) in enumerate(_contests(given, Path(folder), lines).items()):
                for state in ("alone", "busy"):
                    with _busy_loop() if state == "busy" else nullcontext():
                        seconds = run(Path(folder) / f"{number}-{place}-{state}")
                    results.setdefault(name, {}).setdefault(state, []).append(seconds)
                    print(f"{name}, {state}: {seconds:.1f} s", file=sys.stderr, flush=True)
    table = {
        f"{name}: beside a busy loop over alone": spread(
            [b / a for a, b in zip(found["alone"], found["busy"])]
        )
        for name, found in results.items()
    }
    return {"results": results, "ratios": table, "threads": given.threads}


def _contests(given, folder: Path, lines: Path) -> dict:
    def ours(*arguments: str, stdin: Path | None = None, **environment):
        def run(out: Path) -> float:
            command = [a.replace("OUT", str(out)) for a in arguments]
            return _seconds(command, given.threads, environment, stdin)

        return run

    finetune = ("finetune", "--limit", "600", "--epochs", "1", "--quiet", "--out", "OUT")
    predict = ("predict", "--from", str(ROOT / "data" / "adapters" / "spam"))
    peer = Job(contender="peft", shape="mini", batch_size=32, steps=given.steps)

    def peft(out: Path) -> float:
        (result,) = run_worker([peer], given.threads, report=lambda result: None)
        return sum(result["seconds"]) if "seconds" in result else float("nan")

    return {
        "finetune": ours(*finetune),
        "finetune, threads that spin": ours(*finetune, **SPINNING),
        f"predict, {given.messages} messages": ours(*predict, stdin=lines),
        f"predict, {given.messages} messages, threads that spin": ours(
            *predict, stdin=lines, **SPINNING
        ),
        f"peft on transformers, {given.steps} steps": peft,
    }


def _seconds(arguments: list[str], threads: int, environment: dict, stdin: Path | None) -> float:
    """Wall-clock seconds of `python -m llm ARGUMENTS`."""
    given = {**os.environ, **environment, "OMP_NUM_THREADS": str(threads)}
    if environment:
        given.pop("OMP_WAIT_POLICY", None)
    with open(stdin or os.devnull, encoding="utf-8") as lines:
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            env=given,
            stdin=lines,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    return time.perf_counter() - started


@contextmanager
def _busy_loop():
    """A program that never rests, on the first core where one can be chosen."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
    try:
        yield
    finally:
        process.kill()
        process.wait()
