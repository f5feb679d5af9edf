"""What the runs of a cell come to: its rate, its test values, how far it is from the default.

A run *diverged* if its loss became no number, or if it ended worse than what needs no training: the
untouched base, or (spam) the answer "ham" to everything. It is counted, and its value stays in the
mean. Where it has none, whoever made it is left with the base, so the base's value stands for it.
"""

from collections.abc import Sequence
from math import isinf, log

from llm.studies.knob_cells import DEFAULT, SPAM, TASKS, WRITING
from llm.studies.knob_search import Search
from llm.studies.summary import mean_and_std, paired_difference, student_interval

LESS_IS_BETTER = ("bits_per_byte", "loss")
DIGITS = 6


def majority(spam_share: float) -> dict[str, float]:
    """The metrics of answering "ham" to every message, with the share of spam as probability."""
    ham = 1 - spam_share
    return {
        "f1": 0.0,
        "loss": -spam_share * log(spam_share) - ham * log(ham),
        "accuracy": ham,
        "average_precision": spam_share,
    }


ROUNDED = 10.0**-DIGITS  # what is kept of a run is rounded


def diverged(task: str, run: dict, base: dict) -> bool:
    """Whether a run ended worse than without any training.

    Args:
        run: what `llm.studies.knobs` keeps of a record.
        base: the metrics of what needs no training, on the same test part.
    """
    if run["not_finite"]:
        return True
    if task == WRITING:
        return run["test"]["bits_per_byte"] >= base["bits_per_byte"]
    return run["test"]["accuracy"] <= base["accuracy"] + ROUNDED  # a run read from a file


def summarise(searches: Sequence[Search], base: dict[str, list[dict]]) -> list[dict]:
    """All cells as they stand in data/knobs.json, the default of each task first.

    Args:
        base: for each task the metrics of what needs no training, one a unit.
    """
    defaults = {s.task: _values(s, base) for s in searches if s.cell.name == DEFAULT}
    rates = {s.task: s.best() for s in searches if s.cell.name == DEFAULT}
    return [_cell(s, base, defaults.get(s.task), rates.get(s.task)) for s in searches if s.found]


def _cell(
    search: Search, base: dict[str, list[dict]], default: dict | None, default_rate: float | None
) -> dict:
    cell, task, chosen = search.cell, search.task, search.best()
    runs = [
        {
            "learning_rate": rate,
            "unit": unit,
            "diverged": bool(not run["failed"] and diverged(task, run, base[task][unit])),
            **run,
        }
        for (rate, unit), run in sorted(search.found.items())
    ]
    values = _values(search, base)
    found = {
        "task": task,
        "cell": cell.name,
        "knob": cell.knob,
        "rule": cell.rule,
        "rank": cell.lora.get("rank", 8) if cell.method == "lora" else None,
        "trainable_parameters": next((r["trainable"] for r in runs if r["trainable"]), None),
        "grid": [_rate(search, rate, runs) for rate in search.rates],
        "chosen": chosen,
        "at_edge": search.at_edge,
        "units": len(values),
        "diverged": sum(run["diverged"] for run in runs if run["learning_rate"] == chosen),
        "diverged_at_any_rate": sum(run["diverged"] for run in runs),
        "failed": sum(bool(run["failed"]) for run in runs),
        "all_runs": len(runs),
        "test": {
            name: mean_and_std([each[name] for each in values.values()])
            for name in TASKS[task].measured
            if values
        },
        "runs": runs,
    }
    own = None if chosen is None else search.validation(chosen)
    if default_rate in search.rates and own is not None:
        there = search.validation(default_rate)
        found["validation_lost_at_the_default_rate"] = (
            None if there is None or isinf(there) else there - own
        )
    if default is not None and cell.name != DEFAULT:
        found["paired"] = _paired(values, default, TASKS[task].measured)
    return rounded(found)


def _values(search: Search, base: dict[str, list[dict]]) -> dict[int, dict]:
    """Test metrics at the chosen rate, by unit; the base's for a run without a number."""
    found = {}
    for unit in range(search.units):
        run = search.found.get((search.best(), unit))
        if run and not run["failed"]:
            found[unit] = run["test"] or base[search.task][unit]
    return found


def _rate(search: Search, rate: float, runs: list[dict]) -> dict:
    """A rate of the grid: the validation values that it was judged by."""
    mine = [run for run in runs if run["learning_rate"] == rate and run["unit"] < search.searched]
    mean = search.validation(rate)
    return {
        "learning_rate": rate,
        "validation": [run["validation"] for run in mine],
        "validation_mean": None if mean is None or isinf(mean) else mean,
        "diverged": sum(run["diverged"] for run in mine),
    }


def _paired(values: dict[int, dict], default: dict[int, dict], metrics: Sequence[str]) -> dict:
    """How much more than the default, unit by unit: `ahead` counts where the cell is better."""
    common = [unit for unit in values if unit in default]
    if len(common) < 2:
        return {}
    found = {}
    for name in metrics:
        mine, its = ([side[unit][name] for unit in common] for side in (values, default))
        sign = -1 if name in LESS_IS_BETTER else 1
        student = student_interval(mine, its)
        found[name] = {
            "pairs": len(common),
            "ahead": sum(sign * (x - y) > 0 for x, y in zip(mine, its)),
            **paired_difference(mine, its),
            "student_low": student["low"],
            "student_high": student["high"],
        }
    return found


def rounded(content):
    """Every number of a JSON-like content to six digits behind the point; more is noise."""
    if isinstance(content, dict):
        return {
            key: x if key in ("learning_rate", "chosen") else rounded(x)
            for key, x in content.items()
        }
    if isinstance(content, list):
        return [rounded(x) for x in content]
    return round(content, DIGITS) if isinstance(content, float) else content


def summary_table(cells: Sequence[dict], task: str) -> str:
    """The cells of a task as text for a terminal."""
    metric = TASKS[task].measured[0]
    points = 100 if task == SPAM else 1
    lines = [f"{task}: {metric} on test, and its difference to the default"]
    for cell in (cell for cell in cells if cell["task"] == task and cell["units"]):
        mean, std = cell["test"][metric]["mean"], cell["test"][metric]["std"] or 0
        line = f"{cell['cell']:<24} rate {cell['chosen']:<8g} {points * mean:7.3f} ± "
        line += f"{points * std:.3f} ({cell['units']})"
        if cell.get("paired"):
            found = cell["paired"][metric]
            ends = [points * found[key] for key in ("mean", "student_low", "student_high")]
            line += "  {:+.3f} ({:+.3f} to {:+.3f})".format(*ends)
        if cell["diverged_at_any_rate"]:
            line += f"  {cell['diverged_at_any_rate']} of {cell['all_runs']} diverged"
        lines.append(line + ("  at the edge of the grid" if cell["at_edge"] else ""))
    return "\n".join(lines)
