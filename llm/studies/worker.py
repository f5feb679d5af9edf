"""One fine-tuning run in a process of its own, so that its peak memory is its own too.

`run_in_fresh_process` starts `python -m llm.studies.worker` and hands it the run as JSON on
standard input; on standard output it answers with the content of run.json, or with the error.
Progress goes to standard error, which both processes share.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from llm.training.settings import FinetuneSettings
from llm.utils.errors import InputError
from llm.utils.paths import ROOT
from llm.utils.program import refusals


def run_in_fresh_process(
    settings: FinetuneSettings,
    out: str | Path,
    resume: bool = False,
    device: str = "auto",
    quiet: bool = True,
) -> dict:
    """`llm.training.finetuning.finetune` in a fresh process.

    Args:
        quiet: no progress bar on stderr.

    Returns:
        the content of the folder's run.json.

    Raises:
        InputError: what the run raises, in its words; or that it ended without an answer.
        KeyboardInterrupt: after the run, which got Ctrl-C too, has kept what it has trained.
    """
    job = {"out": str(out), "resume": resume, "device": device, "quiet": quiet}
    status, answer = fresh_process(json.dumps({"settings": asdict(settings), **job}))
    if status == 130:
        raise KeyboardInterrupt
    if status == 2:
        raise InputError(**json.loads(answer))
    if status != 0:  # a bug, whose traceback stands above, or killed by the system
        raise InputError(
            f"the run of {settings.method} with seed {settings.seed} ended with status "
            f"{status} and no answer"
        )
    return json.loads(answer)


def fresh_process(job: str) -> tuple[int, str]:
    """The exit status of a worker, and what it has written to standard output."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]  # llm may not be installed
    process = subprocess.Popen(
        [sys.executable, "-m", "llm.studies.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONIOENCODING": "utf-8"},
    )
    try:
        answer, _ = process.communicate(job)
    except KeyboardInterrupt:
        process.wait()
        raise
    return process.returncode, answer


def main() -> int:
    """The run that standard input describes.

    Returns:
        the exit status: 0 done, 2 bad input, 130 interrupted.
    """
    try:
        job = json.load(sys.stdin)
        with refusals():
            from llm.training.finetuning import finetune

            settings = FinetuneSettings.from_dict(job.pop("settings"))
            answer, status = finetune(settings, **job, report=False).to_dict(), 0
    except InputError as error:
        about = {"message": str(error), "settings": error.settings, "command": error.command}
        answer, status = about, 2
    except KeyboardInterrupt:
        return 130
    print(json.dumps(answer))
    return status


if __name__ == "__main__":
    raise SystemExit(main())
