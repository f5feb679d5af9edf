"""What LoRA's variants take, as the section of README.md that `llm.benchmark variants` fills.

There is a section where there are results, and nothing where there are none.
"""

import statistics

from llm.utils.files import read_json
from llm.utils.paths import DATA

SIZES = {"mini": "mini", "gpt2": "GPT-2 124M", "gpt2-xl": "GPT-2 1558M"}
RESULTS = {  # file -> how it came about, and which clock counts
    "variants_h100.json": (
        "python -m llm.benchmark variants --device cuda --out data/benchmarks/variants_h100.json",
        "seconds",
    ),
    "variants_cpu.json": (
        "python -m llm.benchmark variants --threads 1 --rounds 1 --steps 3 --seconds 230 "
        "--out data/benchmarks/variants_cpu.json",
        "processor_seconds",
    ),
}
TITLE = "### What four bits and directions take"
HOW = (
    "LoRA rank 16 on every Linear of the blocks, random weights. The account is what "
    "`llm.training.memory` predicts: weights, optimizer, and the larger of gradients and kept "
    "activations, with what comes and goes inside a step. Shares are of the first row's, with the "
    "lowest and the highest in brackets."
)


def variants_section() -> str:
    """The section of README.md, with a table for each shape and batch; empty without results."""
    parts = []
    for file, (command, clock) in RESULTS.items():
        path = DATA / "benchmarks" / file
        if not path.exists():
            continue
        content = read_json(path)
        known = content["versions"].items()
        versions = ", ".join(f"{name} {number}" for name, number in known if number)
        parts.append(f"On {_place(content)} ({versions}); `{command}`:")
        parts += variant_tables(content, clock)
    return "\n\n".join([TITLE, HOW, *parts]) if parts else ""


def variant_tables(content: dict, clock: str) -> list[str]:
    """A Markdown table for each shape and batch of a result file, its first contender first.

    Args:
        clock: "seconds" or "processor_seconds": which of the two a step's time is.
    """
    groups: dict = {}
    for result in content["results"]:
        rows = groups.setdefault((result["shape"], result["batch_size"]), {})
        rows.setdefault(result["name"], []).append(result)
    return [_table(*key, _own_first(rows), clock) for key, rows in groups.items()]


def _own_first(rows: dict) -> dict:
    """This project's rows before the peers', so that shares are of its plain LoRA."""
    own = ("ours", "naive")
    peers = {name: runs[0].get("contender", "ours") not in own for name, runs in rows.items()}
    return {name: rows[name] for name in sorted(rows, key=peers.get)}


def _table(shape: str, size: int, rows: dict, clock: str) -> str:
    lines = [
        f"| {SIZES.get(shape, shape)}, {size} messages a step | account | measured peak "
        "| share | a step | share |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    first = next((runs for runs in rows.values() if _measured(runs)), [])
    for name, runs in rows.items():
        runs = _measured(runs)
        if not runs:
            lines.append(f"| {name} | not measured: {_reason(rows[name])} | | | | |")
            continue
        peaks = [run["peak_memory_bytes"] for run in runs]
        medians = [statistics.median(run[clock]) for run in runs]
        account = runs[0].get("memory_account")
        predicted = account and account["peak"] + account.get("passing", 0)
        cells = [
            name,
            _mib(predicted) if predicted else "",
            _mib(statistics.median(peaks)),
            _share([a / b["peak_memory_bytes"] for a, b in zip(peaks, first)]),
            f"{1000 * statistics.median(medians):,.1f} ms",
            _times(runs, first, clock),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _times(runs: list[dict], first: list[dict], clock: str) -> str:
    """Over several rounds the median of the ratios; over one, that of the medians of its steps."""
    ratios = [
        statistics.median(a[clock]) / statistics.median(b[clock]) for a, b in zip(runs, first)
    ]
    if len(ratios) > 1:
        return _share(ratios)
    a, b = runs[0][clock], first[0][clock]
    low, high = min(a) / max(b), max(a) / min(b)
    return f"{ratios[0]:.2f} ({low:.2f} to {high:.2f})"


def _share(values: list[float]) -> str:
    middle = f"{statistics.median(values):.2f}"
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return middle if low == high else f"{middle} ({low} to {high})"


def _measured(runs: list[dict]) -> list[dict]:
    return [run for run in runs if "skipped" not in run]


def _reason(runs: list[dict]) -> str:
    """The first line of why, short and safe in a table."""
    return runs[0]["skipped"].splitlines()[0].replace("|", "/")[:80]


def _mib(count: float) -> str:
    return f"{count / 2**20:,.0f} MiB"


def _place(content: dict) -> str:
    device = content["device"]
    return f"one {device}" if "NVIDIA" in device else f"a CPU ({device})"
