"""LoRA's knobs, one at a time: which matter, which do not, on writing and on telling spam.

    python -m llm.studies.knobs --jobs 20 --out runs/knobs.json

Rank, the rule for alpha and the learning rate; where LoRA stands; DoRA, LoRA+ and PiSSA's start;
the base in eight and in four bits (`llm.studies.knob_cells`). Every cell has its own rate, chosen
on validation (`llm.studies.knob_search`), and a run that diverges is counted, not dropped
(`llm.studies.knob_summary`). The file is written anew after every few runs, so the study may be
stopped at any time, and goes on with `--resume`; what it measures first is what tells most.

Runs leave their files in the system's folder for temporary ones and delete them: some 10 MB a job.
"""

import json
import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from llm.data.messages import load_task
from llm.data.splits import split
from llm.data.tokenizer import mini_tokenizer
from llm.model.config import GPTConfig
from llm.model.gpt import GPTModel
from llm.studies.knob_cells import CELLS, SPAM, TASKS, WRITING
from llm.studies.knob_search import Key, Plan
from llm.studies.knob_summary import majority, rounded, summarise, summary_table
from llm.studies.pool import Answer, Pool
from llm.studies.voice_measures import measure_base, texts_of
from llm.training.device import pick_device
from llm.training.pretraining import save_base
from llm.training.settings import FinetuneSettings
from llm.utils.errors import InputError
from llm.utils.files import read_json, write_text
from llm.utils.paths import EVERYDAY
from llm.utils.program import Parser, positive, run

BETWEEN_WRITES = 10.0  # seconds
# What --quick trains, and on what: as many blocks as the real base has, but thin ones.
SMALL_BASE = GPTConfig(vocab_size=8192, context_length=64, emb_dim=32, n_heads=2, n_layers=10)
SMALL = {"data": str(EVERYDAY), "limit": 16, "epochs": 1}
FIRST_FAILURES = 8  # runs: when so many fail and none has gone well, something else is wrong


@dataclass
class Study:
    """A run of the study.

    Args:
        out: the JSON file to write.
        quick: see that everything runs, and learn nothing.
    """

    out: Path
    quick: bool = False
    sessions: list[dict] = field(default_factory=list)  # on which machines, how long
    data: dict[str, dict] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self):
        self.plan = Plan(CELLS, self.quick)
        self.cells = {cell.name: cell for cell in CELLS}
        self.base: Future | None = None
        self.small: dict[str, object] = {}
        self.runs = self.failures = 0

    def settings(self, key: Key) -> FinetuneSettings:
        """Those of a run."""
        units = TASKS[key.task].units[key.unit]
        settings = self.cells[key.cell].settings(key.task, key.rate, *units)
        return replace(settings, **self.small)

    def take_over(self, path: Path) -> None:
        """Go on from an earlier file of this study."""
        before = read_json(path)
        self.data, self.sessions = before["data"], before["sessions"]
        for cell in before["cells"]:
            if (cell["task"], cell["cell"]) in self.plan.searches:
                for run in cell["runs"]:
                    key = Key(cell["task"], cell["cell"], run["learning_rate"], run["unit"])
                    if not run["failed"]:
                        self.plan.take(key, {name: run[name] for name in kept(Answer(), key)})
                self.plan.searches[cell["task"], cell["cell"]].begin_with_found()

    def go(self, jobs: int, device: str, seconds: float | None) -> dict:
        """Make the runs until all are made or the time is over. Returns what was written."""
        ends = self.started + seconds if seconds else float("inf")
        written = self.started
        with (
            TemporaryDirectory() as folder,
            Pool(jobs, device) as pool,
            ThreadPoolExecutor(1) as beside,
        ):
            if self.quick:
                base = GPTModel(SMALL_BASE).state_dict()
                save_base(folder, SMALL_BASE, base, mini_tokenizer())
                self.small = {**SMALL, "model": folder}
            self.sessions.append({"workers": jobs, "device": _device_name(device)})
            self.base = beside.submit(self.without_training, device)
            while (left := ends - time.perf_counter()) > 0:
                while pool.idle and (key := self.plan.next()):
                    pool.start(key, self.settings(key))
                if not pool.busy:
                    break
                if self.base.done() and time.perf_counter() - written > BETWEEN_WRITES:
                    self.write()  # while all processes are at work
                    written = time.perf_counter()
                ended = pool.wait(left if seconds else None)
                if ended is None:
                    break
                self.take(*ended)
        return self.write(complete=self.plan.next() is None and left > 0)

    def take(self, key: Key, answer: Answer) -> None:
        """Note a run that has ended, and tell of it now and then."""
        self.plan.take(key, kept(answer, key))
        if answer.record:
            self.data[key.task] = answer.record["data"]
        self.runs += 1
        self.failures += bool(answer.failed)
        if self.runs == self.failures == FIRST_FAILURES:
            raise InputError(f"no run has gone well so far; the last says: {answer.failed}")
        if self.runs % 20 == 0 or answer.failed:
            seconds = time.perf_counter() - self.started
            failed = f"; {key} failed: {answer.failed}" if answer.failed else ""
            print(f"{self.runs} runs in {seconds:.0f} s{failed}", file=sys.stderr)

    def write(self, complete: bool = False) -> dict:
        """The file as it is now."""
        base = self.base.result()
        searches = list(self.plan.searches.values())
        seconds = round(time.perf_counter() - self.started)
        self.sessions[-1] |= {"seconds": seconds, "runs": self.runs, "torch": torch.__version__}
        content = {
            "model": FinetuneSettings().model,
            "sessions": self.sessions,
            "runs": sum(len(search.found) for search in searches),
            "complete": complete,
            "quick": self.quick,
            "data": self.data,
            "units": {name: task.units for name, task in TASKS.items()},  # (seed, split seed)
            "base": rounded(base),
            "cells": summarise(searches, base),
        }
        write_text(self.out, in_lines(content))
        return content

    def without_training(self, device: str) -> dict[str, list[dict]]:
        """What needs no training, by task and unit: the base's bits a byte; always "ham"."""
        device = pick_device(device)
        found: dict[str, list[dict]] = {WRITING: [], SPAM: []}
        for task, rows in found.items():
            settings = replace(TASKS[task].settings, **self.small)
            for seed, split_seed in TASKS[task].units[: 2 if self.quick else None]:
                here = replace(settings, seed=seed, split_seed=split_seed)
                if task == WRITING:
                    measured = measure_base(here, {"test": texts_of(here).test}, device)
                    rows.append({"bits_per_byte": measured["test"]["bits_per_byte"]})
                elif rows:
                    rows.append(rows[0])  # every split has the same share of spam
                else:
                    parts = split(load_task(here.task, here.data), split_seed)
                    labels = [message.label for message in parts.test]
                    rows.append(majority(sum(labels) / len(labels)))
        return found


def kept(answer: Answer, key: Key) -> dict:
    """What the study keeps of a run: a number to choose by, the test metrics, how it ended."""
    task, results = TASKS[key.task], (answer.record or {}).get("record", {})
    return {
        "validation": results["validation"][task.chosen_by] if results else None,
        "test": {name: results["test"][name] for name in task.measured} if results else None,
        "trainable": results.get("trainable_parameters"),
        "seconds": results.get("train_seconds"),
        "not_finite": answer.not_finite,
        "failed": answer.failed,
    }


def in_lines(content: dict) -> str:
    """As JSON with a line for each entry, and each cell: some hundred runs stay readable."""
    cells = ",\n".join(json.dumps(cell) for cell in content["cells"])
    others = {name: x for name, x in content.items() if name != "cells"}
    lines = [f"{json.dumps(name)}: {json.dumps(x)}" for name, x in others.items()]
    return ",\n".join(["{" + lines[0], *lines[1:], f'"cells": [\n{cells}\n]}}']) + "\n"


def _device_name(device: str) -> str:
    """As README tells it: "4 x NVIDIA H100"."""
    if pick_device(device.partition(":")[0]) != "cuda":
        return pick_device(device)
    count = 1 if ":" in device else torch.cuda.device_count()
    return f"{count} x {torch.cuda.get_device_name()}"


def parser() -> Parser:
    """The program's options."""
    found = Parser(prog="python -m llm.studies.knobs", description=__doc__.splitlines()[0])
    found.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="runs at once")
    found.add_argument("--device", default="auto", help="where to compute; auto is every GPU")
    found.add_argument("--seconds", type=float, help="stop after so many (default: at the end)")
    found.add_argument("--out", type=Path, default=Path("runs/knobs.json"), help="result file")
    found.add_argument("--quick", action="store_true", help="a few steps of everything")
    found.add_argument("--resume", action="store_true", help="go on with what --out holds")
    return found


def main() -> int:
    """The study as a program. Returns the exit status."""
    options = parser()
    given = options.parse_args()

    def work() -> None:
        study = Study(given.out, given.quick)
        if given.resume and given.out.exists():
            study.take_over(given.out)
        content = study.go(given.jobs, given.device, given.seconds)
        for task in TASKS:
            print(summary_table(content["cells"], task) + "\n")
        left = "" if content["complete"] else "; some are left (--resume)"
        print(f"{study.runs} runs in {content['sessions'][-1]['seconds']} s{left}")

    return run(work, parser=options)


if __name__ == "__main__":
    raise SystemExit(main())
