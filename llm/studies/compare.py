"""All methods side by side: the same base, the same messages, the same seeds, one result file.

Each run is a process of its own, so that its peak memory is its own too.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from llm.data.messages import describe, load_task, split
from llm.lora.methods import check_method
from llm.studies.baselines import majority, tfidf_logistic_regression
from llm.utils.errors import InputError
from llm.utils.files import locked_folder, write_json

RESULTS = "results.json"


def compare(
    methods: list[str],
    seeds: list[int],
    out: str | Path,
    arguments: list[str],
    about: dict,
    quiet: bool = False,
) -> dict:
    """Train every method with every seed, and write `out/results.json`.

    Args:
        methods: of `llm.lora.methods.METHODS`.
        arguments: options of `python -m llm finetune` that hold for all runs.
        about: task, data, balanced, limit and split_seed, as `llm.training.finetuning` names them.
        quiet: print nothing on stderr; otherwise what was read, and a line after each run.

    Returns:
        the content of results.json.

    Raises:
        InputError: from the first run that fails, in its words.
    """
    for method in methods:
        check_method(method)
    with locked_folder(out) as folder:
        collection = load_task(about["task"], about["data"])
        parts = split(collection, about["split_seed"], about["balanced"], about["limit"])
        if not quiet:
            print(describe(collection, parts), file=sys.stderr)
        runs = []
        for seed in seeds:
            for method in methods:
                run_folder = folder / "runs" / f"{method}-seed{seed}"
                command = ["--method", method, "--seed", str(seed), "--out", str(run_folder)]
                runs.append(run_finetune([*arguments, *command]))
                if not quiet:
                    record = runs[-1]["record"]
                    done = f"{method}, seed {seed}: {record['train_seconds']:.0f} s"
                    print(f"{done}, F1 {record['test']['f1']:.3f}", file=sys.stderr)
        results = {
            "model": runs[0]["base"]["model"],
            "weights": runs[0]["base"]["weights"],
            "device": runs[0]["device"],
            "torch": torch.__version__,
            "data": runs[0]["data"],
            "settings": runs[0]["settings"],
            "runs": [run["record"] for run in runs],
            "baselines": {
                "majority": majority(parts.train, parts.test),
                "tfidf_logistic_regression": tfidf_logistic_regression(*parts),
                "tfidf_logistic_regression_characters": tfidf_logistic_regression(
                    *parts, characters=True
                ),
            },
            "summary": summarise([run["record"] for run in runs]),
        }
        write_json(folder / RESULTS, results)
    return results


def run_finetune(arguments: list[str]) -> dict:
    """`python -m llm finetune` in a fresh process; its progress goes to this one's stderr.

    Returns:
        the run's `run.json`.
    """
    command = [sys.executable, "-m", "llm", "finetune", "--json", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=None, text=True, encoding="utf-8"
    )
    try:
        printed, _ = process.communicate()
    except KeyboardInterrupt:  # the run got Ctrl-C too, and keeps what it has trained
        process.wait()
        raise
    if process.returncode == 130:
        raise KeyboardInterrupt
    if process.returncode != 0:
        raise InputError(f"the run `finetune {' '.join(arguments)}` failed, see above")
    return json.loads(printed)


def summarise(records: list[dict]) -> dict:
    """Mean and standard deviation over the seeds, a method.

    The deviation is the sample's (n - 1), None for a single seed.
    """
    summary: dict = {}
    for method in dict.fromkeys(record["method"] for record in records):
        mine = [record for record in records if record["method"] == method]
        columns = {
            **{f"test_{key}": [run["test"][key] for run in mine] for key in mine[0]["test"]},
            **{
                f"validation_{key}": [run["validation"][key] for run in mine]
                for key in mine[0]["validation"]
            },
        }
        for key in ("train_seconds", "examples_per_second", "peak_memory_bytes"):
            columns[key] = [run[key] for run in mine]
        summary[method] = {
            "seeds": len(mine),
            "trainable_parameters": mine[0]["trainable_parameters"],
            "trainable_share": mine[0]["trainable_parameters"] / mine[0]["total_parameters"],
            "saved_bytes": mine[0]["saved_bytes"],
            **{
                f"{key}_{name}": value
                for key, values in columns.items()
                if None not in values
                for name, value in _mean_and_std(values).items()
            },
        }
    return summary


def _mean_and_std(values: list[float]) -> dict:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": deviation}
