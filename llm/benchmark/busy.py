"""The suite of `llm.benchmark` for a machine that does other things too.

    python -m llm.benchmark busy --rounds 3 --out busy.json
    python -m llm.benchmark busy --only notebooks --rounds 1 --out busy.json

Each command runs alone, and again while an endless loop holds one of the cores. Beside this project
as it comes, the same with threads that spin while they wait for one another (PyTorch's own
default; `llm/__init__.py` says why it is changed), and a peer. The notebooks run in a scratch copy,
each from top to bottom. The result file is written anew after each measurement.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path

from llm.benchmark.peers import Job
from llm.benchmark.runner import run_worker, spread
from llm.utils.errors import InputError
from llm.utils.files import write_json
from llm.utils.paths import ROOT

GOAL = 2.2  # times the quiet time, with one of two cores taken
# As long as libgomp lets a thread spin at the end of parallel work where nothing is set.
SPINNING = {"GOMP_SPINCOUNT": "300000"}
NOTEBOOKS = ROOT / "notebooks"
SMALL = ("--limit", "600", "--epochs", "1", "--quiet", "--out", "OUT")


class Failed(Exception):
    """A command that ended with an error: there is nothing to compare."""


Case = Callable[[Path], float | None]  # a folder to write to -> seconds, if it measures itself


def busy(given) -> dict:
    """Seconds of whole commands alone and beside a busy loop, and the ratios.

    Args:
        given: the command line's options: `rounds`, `messages` (to predict), `steps` (of the
            peer), `threads`, `only` (kinds of case: finetune, predict, compare, peer, notebooks),
            `whole` (compare with its defaults as well), `out`.

    Raises:
        InputError: no such kind of case.
    """
    content: dict = {"results": {}, "ratios": {}, "goal": GOAL, "threads": given.threads}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = _cases(given, folder)
        for _ in range(given.rounds):
            for place, (name, run) in enumerate(cases.items()):
                for state in ("alone", "busy"):
                    out = folder / f"{place}-{state}"
                    try:
                        with _busy_loop() if state == "busy" else nullcontext():
                            _note(content, name, state, _seconds(run, out))
                    except Failed as error:
                        print(f"{name}, {state}: {error}", file=sys.stderr, flush=True)
                        break  # and the next case has its turn
                    finally:
                        shutil.rmtree(out, ignore_errors=True)
                    if given.out:
                        write_json(given.out, content)
    return content


def _seconds(run: Case, out: Path) -> float:
    started = time.perf_counter()
    own = run(out)
    return time.perf_counter() - started if own is None else own


def _note(content: dict, name: str, state: str, seconds: float) -> None:
    found = content["results"].setdefault(name, {"alone": [], "busy": []})
    found[state].append(seconds)
    print(f"{name}, {state}: {seconds:.1f} s", file=sys.stderr, flush=True)
    if found["busy"]:
        content["ratios"][f"{name}: beside a busy loop over alone"] = spread(
            [beside / alone for alone, beside in zip(found["alone"], found["busy"])]
        )


def _cases(given, folder: Path) -> dict[str, Case]:
    """What runs, by name, in turn."""
    lines = folder / "messages.txt"
    lines.write_text("Are we still meeting at the station at 8? Bring the book\n" * given.messages)

    def llm(*arguments: str, stdin: Path | None = None, **environment) -> Case:
        def run(out: Path) -> None:
            filled = [str(out) if a == "OUT" else a for a in arguments]
            _run(["-m", "llm", *filled], given.threads, environment, stdin)

        return run

    def notebook(script: str, *arguments: str) -> Case:
        def run(out: Path) -> None:
            shutil.copytree(NOTEBOOKS, out / "notebooks")
            _run([str(out / "notebooks" / script), *arguments], given.threads)

        return run

    job = Job(contender="peft", shape="mini", batch_size=32, steps=given.steps)

    def peer(out: Path) -> float:
        (result,) = run_worker([job], given.threads, report=lambda result: None)
        if "seconds" not in result:
            raise Failed(result["skipped"])
        return sum(result["seconds"])

    predict = llm("predict", "--from", str(ROOT / "data" / "adapters" / "spam"), stdin=lines)
    spin = llm(
        "predict", "--from", str(ROOT / "data" / "adapters" / "spam"), stdin=lines, **SPINNING
    )
    kinds: dict[str, dict[str, Case]] = {
        "finetune": {
            "finetune": llm("finetune", *SMALL),
            "finetune, threads that spin": llm("finetune", *SMALL, **SPINNING),
        },
        "predict": {
            f"predict, {given.messages} messages": predict,
            f"predict, {given.messages} messages, threads that spin": spin,
        },
        "compare": {"compare": llm("compare", *SMALL)},
        "peer": {f"peft on transformers, {given.steps} steps": peer},
        "notebooks": {
            f"notebook {path.stem}": notebook("make_touch.py", "--notebook")
            if path.stem == "06_touch_it"  # holds text boxes, which `execute.py` leaves out
            else notebook("execute.py", "--threads", str(given.threads), path.stem)
            for path in sorted(NOTEBOOKS.glob("*.ipynb"))
        },
    }
    if given.whole:
        kinds["compare"]["compare, with its defaults"] = llm("compare", "--quiet", "--out", "OUT")
    chosen = given.only.split(",") if given.only else list(kinds)
    unknown = [kind for kind in chosen if kind not in kinds]
    if unknown:
        raise InputError(f"no case {', '.join(unknown)}; there are {', '.join(kinds)}")
    return {name: run for kind in chosen for name, run in kinds[kind].items()}


def _run(
    arguments: list[str], threads: int, environment: dict | None = None, stdin: Path | None = None
) -> None:
    """`python ARGUMENTS`, with `llm` as it is here. Raises Failed where it ends with an error."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    given = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(paths)}
    if environment:
        given.pop("OMP_WAIT_POLICY", None)
        given.update(environment)
    with open(stdin or os.devnull, encoding="utf-8") as lines:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=given, stdin=lines, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise Failed(f"ended with status {done.returncode}")


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
