"""Processes of their own that need not wait for PyTorch: forked from a server that has imported it.

The server knows the libraries and nothing of this project, so a child reads our files as a new
Python does. Where nothing can be forked (Windows), a child is a new Python.
"""

import io
import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path
from subprocess import CompletedProcess

ROOT = Path(__file__).resolve().parents[1]
# What pytest puts on the path, and a reader's Python does not.
OURS = {str(ROOT / name) for name in ("", "tests", "chapters", "notebooks")}

can_fork = "forkserver" in multiprocessing.get_all_start_methods()
server = multiprocessing.get_context("forkserver" if can_fork else "spawn")
if can_fork:
    server.set_forkserver_preload(
        ["torch", "torch._dynamo", "matplotlib.pyplot", "sklearn.linear_model", "sklearn.metrics"]
        + ["sklearn.feature_extraction.text", "tiktoken", "regex", "safetensors.torch"]
        + ["ipykernel.ipkernel", "ipykernel.kernelapp"]
    )


def call(function, *arguments, environment=None, folder=None) -> CompletedProcess:
    """Run `function(*arguments)` in a child; its exit status and what it printed.

    Args:
        function: one that a child can import by its name.
        environment: variables to set.
        folder: where to run it.
    """
    with tempfile.TemporaryDirectory() as output:
        process = start(function, *arguments, output=output, environment=environment, folder=folder)
        process.join()
        return ended(process, output)


def start(function, *arguments, output, environment=None, folder=None):
    """Begin it. `output` is an empty folder for what it prints."""
    work = (function, arguments, output, environment or {}, folder)
    process = server.Process(target=_child, args=work)
    process.start()
    return process


def ended(process, output) -> CompletedProcess:
    """What a child that has ended has left."""
    said = [(Path(output) / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")]
    return CompletedProcess(process.name, process.exitcode, *said)


def run_script(script: Path, *options: str, folder: Path, prepare=None) -> CompletedProcess:
    """As `python SCRIPT OPTIONS` in `folder`. `prepare` is called first, in the child."""
    return call(_script, str(script), options, prepare, folder=folder)


def fresh_path() -> list[str]:
    """`sys.path` as a new Python has it: ours only where PYTHONPATH names it."""
    asked_for = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    kept = [place for place in sys.path if place in asked_for or place not in OURS]
    return [*(place for place in asked_for if place not in kept), *kept]


def kernel(options, folder, environment):
    """As `python -m ipykernel_launcher OPTIONS`, in a child that ends when its parent does."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:] = ["", *fresh_path()]
    sys.argv = ["ipykernel_launcher", *options, f"--IPKernelApp.parent_handle={os.getppid()}"]
    runpy.run_module("ipykernel_launcher", run_name="__main__")


def studies_worker(job: str) -> tuple[int, str]:
    """As `llm.studies.worker.fresh_process`, whose place it takes, at once."""
    done = call(_studies_worker, job)
    sys.stderr.write(done.stderr)
    return done.returncode, done.stdout


def _child(function, arguments, output, environment, folder):
    os.environ.update(environment)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(output) / name, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    os.chdir(folder or os.getcwd())
    function(*arguments)


def _script(script, options, prepare):
    sys.path[:] = [os.path.dirname(script), *fresh_path()]
    sys.argv = [script, *options]
    if prepare:
        prepare()
    runpy.run_path(script, run_name="__main__")


def _studies_worker(job):
    from llm.studies.worker import main

    sys.stdin = io.StringIO(job)
    raise SystemExit(main())
