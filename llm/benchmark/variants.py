"""The suite of `llm.benchmark` for LoRA's variants: what four bits save, and what they cost.

    python -m llm.benchmark variants --device cuda --out variants.json

Of each variant at three sizes of GPT-2: the memory that the account predicts, the peak that was
measured, and the time of a step; beside them peft's LoRA, and peft with bitsandbytes.

On a GPU all have frozen weights in bfloat16, products under autocast, and messages of 128 tokens,
and keep nothing of a block but its input. Our steps are recorded as a CUDA graph, as fine-tuning
does; peers run as they are used. On a CPU, with real messages and in float32, each contender runs
in a fresh process, in turn, `--rounds` times.
"""

import os
import statistics
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

from llm.benchmark.peers import Job
from llm.benchmark.runner import describe, run_worker, spread
from llm.utils.files import write_json

LARGEST, SMALLEST = "gpt2-xl", "gpt2"
SHOWN = ("torch", "transformers", "peft", "bitsandbytes")  # versions


def variants(given) -> dict:
    """The suite; a file is written after each case.

    Args:
        given: the command line's options: `device`, `out`, `seconds` (no case is begun after),
            `quick` (tiny shapes, on a CPU), `rounds`, `steps`, `threads`.

    Returns:
        `results`, a case each, and `ratios`: of variants over plain LoRA, and over the peers.
    """
    started = time.time()
    content: dict = {
        "device": _device(given.device),
        "versions": {name: _version(name) for name in SHOWN},
        "results": [],
        "ratios": {},
    }

    def report(result: dict) -> None:
        content["results"].append({**result, "name": name_of(result)})
        content["ratios"] = ratios(content["results"])
        print(f"{time.time() - started:4.0f} s  {name_of(result)}  {describe(result)}", flush=True)
        if given.out:
            write_json(given.out, content)

    for jobs in processes(given):
        run_worker(jobs, given.threads, report, started + given.seconds)
    return content


def processes(given) -> list[list[Job]]:
    """Jobs, the most telling first: a list of those that one process runs."""
    if given.device != "cuda" or given.quick:
        return _on_cpu(given)
    card = Job(device="cuda", precision="bf16", width=128, steps=10, warm_up=3, recompute="all")
    xl, long = (
        replace(card, shape=LARGEST, batch_size=8),
        replace(card, shape=SMALLEST, batch_size=64),
    )
    lora = replace(xl, record=True)
    nf4, int8 = (replace(lora, quantize=kind) for kind in ("nf4", "int8"))
    dora = replace(lora, variant="dora")
    many = replace(long, record=True)
    peers = [replace(xl, contender=name) for name in ("bitsandbytes", "peft-tanh")]
    lean = replace(peers[0], contender="bitsandbytes-lean")
    compiled = {"compile": True, "account": False}

    def accounted(*jobs: Job) -> list[Job]:
        return [replace(job, account=True) for job in jobs]

    tiny = replace(many, shape="mini")
    return [
        accounted(lora, nf4),
        [
            *[peers[0], replace(lora, record=False), replace(nf4, record=False), peers[1], lean],
            *[replace(job, shape=SMALLEST, batch_size=64) for job in (*peers, lean)],
        ],
        accounted(
            *[int8, dora, replace(dora, contender="naive")],
            *[many, replace(many, quantize="nf4"), replace(many, quantize="int8")],
            *[replace(many, variant="dora"), replace(many, variant="dora", contender="naive")],
            *[replace(many, recompute="nothing", quantize=kind) for kind in (None, "nf4")],
            *[tiny, replace(tiny, quantize="nf4"), replace(tiny, variant="dora")],
        ),
        [replace(job, **compiled) for job in (lora, nf4, int8, dora)],
    ]


def _on_cpu(given) -> list[list[Job]]:
    """Every contender in a process of its own, all in turn."""
    base = Job(steps=given.steps, account=True, import_first=True)
    shapes = {"mini": 32, SMALLEST: 4}  # messages a step
    if given.quick:
        shapes, base = {"mini": 2}, replace(base, steps=2, width=8, layers=1)
    found = []
    for shape, size in shapes.items():
        lora = replace(base, shape=shape, batch_size=size)
        nf4, dora = replace(lora, quantize="nf4"), replace(lora, variant="dora")
        contenders = [lora, nf4, replace(lora, quantize="int8"), dora]
        contenders += [replace(dora, contender="naive")]
        contenders += [replace(job, recompute="all") for job in (lora, nf4)]
        contenders += [
            replace(lora, contender=name, account=False) for name in ("peft-tanh", "bitsandbytes")
        ]
        found += [[job] for _ in range(given.rounds) for job in contenders]
    return found


def name_of(result: dict) -> str:
    """What a contender is called in a table, without its shape."""
    own = result["contender"] in ("ours", "naive")
    kind = {"lora": "LoRA", "dora": "DoRA"}[result["variant"]]
    kind = f"Q{kind} {result['quantize']}" if result["quantize"] else kind
    kind = kind if own else {"peft-tanh": "peft"}.get(result["contender"], result["contender"])
    kind += ", as it is read" if result["contender"] == "naive" else ""
    how = {"compile": "compiled", "record": "recorded"}
    kind += "".join(f", {word}" for key, word in how.items() if result[key])
    return kind + ("" if result["recompute"] == "nothing" else ", recomputed")


def ratios(results: list[dict]) -> dict:
    """Each contender over plain LoRA in the same form, and ours over each peer in its best form.

    Returns:
        name -> `peak memory` and `time`, as median, lowest and highest: of the rounds where there
        are several, else of the steps, the fastest of one over the slowest of the other.
    """
    table: dict = {}
    runs: dict = {}
    for result in results:
        if "skipped" not in result:
            runs.setdefault((result["shape"], result["batch_size"], result["name"]), []).append(
                result
            )
    for (shape, size, name), mine in runs.items():
        for (other_shape, other_size, other), theirs in runs.items():
            if (other_shape, other_size) == (shape, size) and _belong(mine[0], theirs[0]):
                table[f"{shape}, {size} messages: {name} over {other}"] = _over(mine, theirs)
    return table


def _belong(mine: dict, theirs: dict) -> bool:
    """Whether a ratio of the two says something."""
    if mine["contender"] not in ("ours", "naive") or mine["name"] == theirs["name"]:
        return False
    if theirs["contender"] not in ("ours", "naive"):
        return mine["contender"] == "ours" and mine["recompute"] == theirs["recompute"]
    plain = theirs["variant"] == "lora" and not theirs["quantize"]
    plain = plain and theirs["contender"] == "ours"
    return plain and all(mine[key] == theirs[key] for key in ("compile", "record", "recompute"))


def _over(mine: list[dict], theirs: list[dict]) -> dict:
    peak = [a["peak_memory_bytes"] / b["peak_memory_bytes"] for a, b in zip(mine, theirs)]
    medians = [
        statistics.median(a["seconds"]) / statistics.median(b["seconds"])
        for a, b in zip(mine, theirs)
    ]
    clock = spread(medians)
    if len(medians) == 1:
        (a,), (b,) = mine[:1], theirs[:1]
        clock["low"] = min(a["seconds"]) / max(b["seconds"])
        clock["high"] = max(a["seconds"]) / min(b["seconds"])
    used = [sum(a["processor_seconds"]) / sum(b["processor_seconds"]) for a, b in zip(mine, theirs)]
    return {"peak memory": spread(peak), "time": clock, "processor time": spread(used)}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device(kind: str) -> str:
    import torch

    return torch.cuda.get_device_name() if kind == "cuda" else os.uname().machine
