"""The suite of `llm.benchmark` for prediction: one message, and a long file of them.

    python -m llm.benchmark predict --messages 100000 --out predict.json

`python -m llm predict` as a whole process: a single message, which is the time to start, beside a
Python that imports PyTorch and does nothing; then a file of the collection's messages, repeated,
and one of a tenth of it, with the most memory that each took. Beside it, on the same base and in
this process, without their start: the text-classification pipeline of transformers, and peft with
its adapter on GPT-2 of transformers, both on 32 messages at a time, for a part of the file.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from llm.benchmark.peers import missing
from llm.benchmark.runner import spread
from llm.data.messages import load_task
from llm.formats.base import load_base, load_tokenizer
from llm.formats.peft_export import export_peft
from llm.formats.transformers import export_transformers
from llm.lora.methods import apply_method
from llm.model.classifier import GPTClassifier
from llm.utils.paths import BUNDLED

BATCH = 32
PART = 50  # the peers predict one message in so many
COMMAND = ["-m", "llm", "predict", "--from", str(BUNDLED["spam"])]
ONE = [*COMMAND, "See you at 8"]


def predict(given) -> dict:
    """Seconds, messages a second and memory.

    Args:
        given: the command line's options: `messages`, `rounds`, `threads`.
    """
    torch.set_num_threads(given.threads)
    texts = [message.text.replace("\n", " ") for message in load_task("spam").messages]
    texts = (texts * (1 + given.messages // len(texts)))[: given.messages]
    results: dict = {}

    def keep(name: str, measured: dict) -> None:
        results.setdefault(name, []).append(measured)
        print(f"{name}: {measured}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        some = texts[:: PART if len(texts) > PART else 1]
        peers = _peers(Path(folder), some) if missing("peft") is None else {}
        files = {}
        for count in (len(texts), max(1, len(texts) // 10)):
            files[count] = Path(folder) / f"{count}.txt"
            files[count].write_text("\n".join(texts[:count]) + "\n", encoding="utf-8")
        for _ in range(given.rounds):
            keep("import torch", _process(["-c", "import torch"], given.threads))
            keep("one message", _process(ONE, given.threads))
            for count, path in files.items():
                measured = _process(COMMAND, given.threads, path)
                rate = count / measured["seconds"]
                keep(f"{count} messages", {**measured, "messages_per_second": rate})
            for name, run in peers.items():
                started = time.perf_counter()
                run()
                rate = len(some) / (time.perf_counter() - started)
                keep(name, {"messages_per_second": rate})
    ours = results[f"{len(texts)} messages"]
    ratios = {
        f"messages a second over {name}": spread(
            [
                mine["messages_per_second"] / theirs["messages_per_second"]
                for mine, theirs in zip(ours, results[name])
            ]
        )
        for name in peers
    }
    tenth = results[f"{max(1, len(texts) // 10)} messages"]
    ratios["memory over that for a tenth of the file"] = spread(
        [a["peak_memory_bytes"] / b["peak_memory_bytes"] for a, b in zip(ours, tenth)]
    )
    ratios["one message over an import of torch"] = spread(
        [
            a["seconds"] / b["seconds"]
            for a, b in zip(results["one message"], results["import torch"])
        ]
    )
    return {"results": results, "ratios": ratios, "threads": given.threads}


def _process(arguments: list[str], threads: int, stdin: Path | None = None) -> dict:
    """Wall-clock seconds of a whole Python, and the most memory it held."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    peak = 0
    with open(stdin or os.devnull, encoding="utf-8") as lines:
        started = time.perf_counter()
        process = psutil.Popen(
            [sys.executable, *arguments], stdin=lines, stdout=subprocess.DEVNULL, env=environment
        )
        while True:
            try:
                peak = max(peak, process.memory_info().rss)
                status = process.wait(0.02)
                break
            except psutil.TimeoutExpired:
                continue
            except psutil.NoSuchProcess:
                status = process.wait()
                break
        seconds = time.perf_counter() - started
    if status:
        raise subprocess.CalledProcessError(status, arguments)
    return {"seconds": seconds, "peak_memory_bytes": peak}


def _peers(folder: Path, texts: list[str]) -> dict[str, Callable]:
    """The same base with heads of random numbers, in the peers' formats."""
    import transformers
    from peft import PeftModel

    tokenizer, labels = load_tokenizer("mini"), ["ham", "spam"]
    body = load_base("mini")
    plain = GPTClassifier(body.config, body=body)
    export_transformers(plain, tokenizer, folder / "plain", labels)
    pipeline = transformers.pipeline(
        "text-classification", model=str(folder / "plain"), batch_size=BATCH, device="cpu"
    )
    apply_method(plain, "lora")
    export_peft(plain, folder / "adapter", str(folder / "plain"), tokenizer)
    model = transformers.GPT2ForSequenceClassification.from_pretrained(folder / "plain")
    adapted = PeftModel.from_pretrained(model, str(folder / "adapter")).eval()

    @torch.no_grad()
    def peft() -> None:
        for first in range(0, len(texts), BATCH):
            batch = pipeline.tokenizer(
                texts[first : first + BATCH],
                padding=True,
                truncation=True,
                max_length=body.config.context_length,
                return_tensors="pt",
            )
            adapted(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])

    return {
        "pipeline of transformers": lambda: pipeline(texts, truncation=True),
        "peft": peft,
    }
