"""All methods side by side: the same base, the same messages, the same seeds, one result file."""

import statistics
import sys
from dataclasses import replace
from pathlib import Path

import torch

from llm.data.messages import load_task
from llm.data.splits import describe, split
from llm.lora.settings import check_method, check_quantize, resolve
from llm.studies.baselines import baselines
from llm.studies.summary import means_and_stds, paired_difference
from llm.studies.worker import run_in_fresh_process
from llm.training.finetuning import everyday_messages
from llm.training.settings import FinetuneSettings
from llm.utils.errors import InputError
from llm.utils.files import locked_folder, write_json

RESULTS = "results.json"
COMPARED = ("f1", "accuracy", "f1_at_threshold", "roc_auc", "average_precision")


def compare(
    methods: list[str],
    seeds: list[int],
    settings: FinetuneSettings,
    out: str | Path,
    lr: float | None = None,
    resume: bool = False,
    device: str = "auto",
    quiet: bool = False,
    splits: list[int] | None = None,
) -> dict:
    """Train every method, each run in a fresh process, and write `results.json`.

    Args:
        methods: of `llm.lora.settings.METHODS`, or an alias that it knows.
        seeds: a run of each method for each of them.
        settings: of all runs; method, learning rate, seed and split seed are filled in.
        out: the folder for the results; the runs go to `out/runs`.
        lr: the highest learning rate of all methods; None: each method's own.
        resume: go on after an interruption; runs that are done are not made again.
        quiet: print nothing on stderr; otherwise what was read, and a line after each run.
        splits: split seeds; a run of each method, and of each baseline, for each of them. None:
            that of `settings`.

    Returns:
        the content of results.json.

    Raises:
        InputError: from the first run that fails, in its words.
        KeyboardInterrupt: passed on; what was trained so far is kept.
    """
    if not methods:
        raise InputError("no method to compare; name at least one", settings=("methods",))
    for method in methods:
        meant, lora = resolve(method, settings.lora)
        check_method(meant)
        check_quantize(meant, lora)
    splits = splits or [settings.split_seed]
    runs, baseline_runs = [], []
    with locked_folder(out) as folder:
        collection = load_task(settings.task, settings.data)
        for split_seed in splits:
            here = replace(settings, split_seed=split_seed)
            parts = split(collection, split_seed, here.balanced, here.limit, here.variants_together)
            if not quiet and split_seed == splits[0]:
                print(describe(collection, parts), file=sys.stderr)
            for seed in seeds:
                for method in methods:
                    run = replace(here, method=method, lr=lr, seed=seed)
                    run_folder = folder / "runs" / run_name(method, seed, split_seed, len(splits))
                    runs.append(run_in_fresh_process(run, run_folder, resume, device, quiet))
                    runs[-1]["record"]["method"] = method  # by the name that was asked for
                    if not quiet:
                        print(_done(runs[-1]["record"]), file=sys.stderr)
            found = baselines(parts, everyday_messages(here))
            baseline_runs.append({"split_seed": split_seed, **found})
        records = [run["record"] for run in runs]
        results = {
            "model": runs[0]["base"]["model"],
            "weights": runs[0]["base"]["weights"],
            "device": runs[0]["device"],
            "torch": torch.__version__,
            "data": runs[0]["data"],
            "settings": runs[0]["settings"],
            "runs": records,
            "baselines": mean_of_baselines(baseline_runs),
            "baseline_runs": baseline_runs,
            "summary": summarise(records),
            "paired": paired(records, baseline_runs) if len(splits) > 1 else {},
        }
        write_json(folder / RESULTS, results)
    return results


def run_name(method: str, seed: int, split_seed: int, n_splits: int) -> str:
    """The folder of a run."""
    return f"{method}-seed{seed}" + (f"-split{split_seed}" if n_splits > 1 else "")


def _done(record: dict) -> str:
    return (
        f"{record['method']}, split {record['split_seed']}, seed {record['seed']}: "
        f"{record['train_seconds']:.0f} s, F1 {record['test']['f1']:.3f}"
    )


def mean_of_baselines(baseline_runs: list[dict]) -> dict[str, dict]:
    """Each baseline's metrics, the mean over the splits; `..._std` beside them."""
    found: dict = {}
    for name in (name for name in baseline_runs[0] if name != "split_seed"):
        mine = [run[name] for run in baseline_runs]
        found[name] = _means_of(mine)
        if "everyday" in mine[0]:
            found[name]["everyday"] = _means_of([run["everyday"] for run in mine])
    return found


def _means_of(rows: list[dict]) -> dict:
    numbers = [key for key, value in rows[0].items() if isinstance(value, int | float)]
    columns = {key: [row[key] for row in rows] for key in numbers}
    means = {key: statistics.fmean(values) for key, values in columns.items()}
    spreads = {key: value for key, value in means_and_stds(columns).items() if key.endswith("_std")}
    return means | spreads


def paired(records: list[dict], baseline_runs: list[dict]) -> dict[str, dict]:
    """What LoRA is ahead of the other methods and of the baselines, split by split.

    Several seeds on a split count as their mean.
    """
    split_seeds = [run["split_seed"] for run in baseline_runs]

    def of_method(method: str, key: str) -> list[float]:
        return [
            statistics.fmean(
                record["test"][key]
                for record in records
                if record["method"] == method and record["split_seed"] == split_seed
            )
            for split_seed in split_seeds
        ]

    methods = list(dict.fromkeys(record["method"] for record in records))
    if "lora" not in methods:
        return {}
    others = {
        method: {key: of_method(method, key) for key in COMPARED}
        for method in methods
        if method != "lora"
    }
    others |= {
        name: {key: [run[name][key] for run in baseline_runs] for key in COMPARED}
        for name in baseline_runs[0]
        if name not in ("split_seed", "majority")
    }
    return {
        f"lora - {name}": {
            f"{key}_{what}": value
            for key in COMPARED
            for what, value in paired_difference(of_method("lora", key), values[key]).items()
        }
        for name, values in others.items()
    }


def summarise(records: list[dict]) -> dict:
    """Mean and standard deviation over the splits and seeds, a method."""
    summary: dict = {}
    for method in dict.fromkeys(record["method"] for record in records):
        mine = [record for record in records if record["method"] == method]
        columns = {
            f"{part}_{key}": [run[part][key] for run in mine]
            for part in ("test", "validation")
            for key in mine[0][part]
        }
        for key in ("train_seconds", "examples_per_second", "peak_memory_bytes"):
            columns[key] = [run[key] for run in mine]
        if "everyday" in mine[0]:
            columns["everyday_accuracy"] = [run["everyday"]["accuracy"] for run in mine]
        summary[method] = {
            "runs": len(mine),
            "seeds": len({run["seed"] for run in mine}),
            "trainable_parameters": mine[0]["trainable_parameters"],
            "trainable_share": mine[0]["trainable_parameters"] / mine[0]["total_parameters"],
            "saved_bytes": mine[0]["saved_bytes"],
            **means_and_stds({key: v for key, v in columns.items() if None not in v}),
        }
    return summary
