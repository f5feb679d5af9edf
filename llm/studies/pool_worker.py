"""One process of a pool: imports torch once, and then trains one run after another.

`llm.studies.pool` starts `python -m llm.studies.pool_worker DEVICE FOLDER` and hands it a job a
line, as JSON, on standard input; each is answered by a line on standard output. What a run leaves
on disk is deleted when it is done: a study reads its record alone.
"""

import gc
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from llm.training.device import pick_device
from llm.training.finetuning import finetune
from llm.training.settings import FinetuneSettings
from llm.utils.errors import InputError, NotFinite


def train_once(job: dict, folder: str | Path, device: str) -> dict:
    """Run a job's `settings` in a folder that is deleted again.

    Returns:
        `record`, the content of run.json; or `not_finite`, why the training was given up.
    """
    settings = FinetuneSettings.from_dict(job["settings"])
    with TemporaryDirectory(dir=folder) as work:
        try:
            run = finetune(settings, Path(work) / "run", device=device, graphs=job["graphs"])
        except NotFinite as error:
            return {"not_finite": str(error)}
    return {"record": run.to_dict()}


def main() -> int:
    """Answer jobs until there are no more. Returns the exit status."""
    device, folder = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else is printed is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool ends its processes itself

    def answer(content: dict) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        device = pick_device(device)
    except InputError as error:
        answer({"refused": str(error)})
        return 2
    torch.set_num_threads(1)  # the others are at work, too
    for line in sys.stdin:
        try:
            answer(train_once(json.loads(line), folder, device))
        except BaseException as error:
            traceback.print_exc()
            answer({"failed": f"{type(error).__name__}: {error}"})
            return 1  # an error on a GPU may outlive its run: a fresh process takes over
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()  # several processes share the card
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
