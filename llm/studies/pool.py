"""Many runs at once, for studies of hundreds of them: a few processes, spread over the GPUs.

A small model leaves most of a GPU idle, and a fresh process a run (`llm.studies.worker`) takes
longer to import torch than to train. So several processes share each GPU, and each of them trains
one run after another. A run's numbers are those of `llm.training.finetuning.finetune`; only its
times and its peak of memory mean nothing, since it was not alone.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from queue import Empty, Queue
from tempfile import TemporaryDirectory
from threading import Thread

import torch

from llm.training.device import pick_device
from llm.training.settings import FinetuneSettings
from llm.utils.errors import InputError
from llm.utils.paths import ROOT


@dataclass(frozen=True)
class Answer:
    """How a run ended; one of the three is there."""

    record: dict | None = None  # the content of run.json
    not_finite: str = ""  # the training ran away: in its words
    failed: str = ""  # an error, twice: in its words


class Pool:
    """Processes that train. Use it in a `with` block; at its end they are stopped, at work or not.

    Args:
        workers: how many.
        device: "auto" or "cuda" spread them over all GPUs; "cuda:2" and "cpu" mean what they say.
    """

    def __init__(self, workers: int, device: str = "auto"):
        devices = devices_of(device)
        self._heard: Queue = Queue()  # (worker, process, line; None: it has ended)
        self._folder = TemporaryDirectory(prefix="runs-", ignore_cleanup_errors=True)
        places = [devices[number % len(devices)] for number in range(workers)]
        self._workers = [_Worker(place, self._folder.name, self._heard) for place in places]

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error) -> None:
        for worker in self._workers:
            worker.stop()
        self._folder.cleanup()

    @property
    def idle(self) -> int:
        """Processes without a run."""
        return sum(worker.job is None for worker in self._workers)

    @property
    def busy(self) -> int:
        """Runs that have not been answered."""
        return len(self._workers) - self.idle

    def start(self, key: object, settings: FinetuneSettings) -> None:
        """Give a run to an idle process; `wait` tells its end by the key."""
        worker = next(worker for worker in self._workers if worker.job is None)
        worker.take(key, {"settings": asdict(settings), "graphs": True})

    def wait(self, seconds: float | None = None) -> tuple[object, Answer] | None:
        """The next run that ends, or None when that takes longer than so many seconds.

        An error may be the machine's: the run is then made once more, by a fresh process, which
        takes its steps on a GPU without recording them.

        Raises InputError where a process cannot start.
        """
        while True:
            try:
                worker, process, line = self._heard.get(timeout=seconds)
            except Empty:
                return None
            if process is not worker.process:
                continue  # the last words of one that was replaced
            heard = json.loads(line) if line else None
            if heard and "refused" in heard:
                raise InputError(heard["refused"])
            if heard and "failed" in heard:
                worker.error = heard["failed"]
            elif heard:
                return worker.done(), Answer(**heard)
            elif worker.job is None:
                worker.ended = True
            elif worker.graphs:
                worker.begin()
                worker.take(*worker.job, graphs=False)
            else:
                worker.ended = True
                error = worker.error or "its process ended without an answer"
                return worker.done(), Answer(failed=error)


def devices_of(device: str) -> list[str]:
    """Every device that a name stands for: "auto" may be four GPUs."""
    found = pick_device(device) if device in ("auto", "cuda") else device
    count = torch.cuda.device_count() if found == "cuda" else 0
    return [f"cuda:{number}" for number in range(count)] or [found]


class _Worker:
    """A process, and the run that it is at."""

    def __init__(self, device: str, folder: str, heard: Queue):
        self._device, self._folder, self._heard = device, folder, heard
        self.job: tuple[object, dict] | None = None  # the key and what was sent
        self.graphs, self.error = True, ""
        self.begin()

    def begin(self) -> None:
        """Start the process, or another in its place."""
        self.ended = False
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llm.studies.pool_worker", self._device, self._folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"},
        )
        Thread(target=self._listen, args=(self.process,), daemon=True).start()

    def take(self, key: object, job: dict, graphs: bool = True) -> None:
        """Send it a run."""
        if self.ended:
            self.begin()
        self.job, self.graphs = (key, job), graphs
        if graphs:
            self.error = ""
        with suppress(OSError):  # it has ended, and `Pool.wait` hears of that
            print(json.dumps({**job, "graphs": graphs}), file=self.process.stdin, flush=True)

    def done(self) -> object:
        """It has answered. Returns the key of the run."""
        (key, _), self.job = self.job, None
        return key

    def stop(self) -> None:
        """End the process, whatever it is at."""
        self.process.kill()
        self.process.wait()

    def _listen(self, process: subprocess.Popen) -> None:
        for line in process.stdout:
            self._heard.put((self, process, line))
        self._heard.put((self, process, None))
