"""All methods side by side: the same base, the same messages, the same seeds, one result file."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from llm.data.messages import describe, load_task, split
from llm.lora.settings import check_method
from llm.studies.baselines import majority, tfidf_logistic_regression
from llm.studies.summary import means_and_stds
from llm.studies.worker import run_in_fresh_process
from llm.training.settings import FinetuneSettings
from llm.utils.errors import InputError
from llm.utils.files import locked_folder, write_json

RESULTS = "results.json"


def compare(
    methods: list[str],
    seeds: list[int],
    settings: FinetuneSettings,
    out: str | Path,
    lr: float | None = None,
    resume: bool = False,
    device: str = "auto",
    quiet: bool = False,
) -> dict:
    """Train every method with every seed, each run in a fresh process, and write `results.json`.

    Args:
        methods: of `llm.lora.settings.METHODS`.
        settings: of all runs; method, learning rate and seed are filled in.
        out: the folder for the results; the runs go to `out/runs`.
        lr: the highest learning rate of all methods; None: each method's own.
        resume: go on after an interruption; runs that are done are not made again.
        quiet: print nothing on stderr; otherwise what was read, and a line after each run.

    Returns:
        the content of results.json.

    Raises:
        InputError: from the first run that fails, in its words.
        KeyboardInterrupt: passed on; what was trained so far is kept.
    """
    if not methods:
        raise InputError("no method to compare; name at least one", settings=("methods",))
    for method in methods:
        check_method(method)
    with locked_folder(out) as folder:
        collection = load_task(settings.task, settings.data)
        parts = split(collection, settings.split_seed, settings.balanced, settings.limit)
        if not quiet:
            print(describe(collection, parts), file=sys.stderr)
        runs = []
        for seed in seeds:
            for method in methods:
                run = replace(settings, method=method, lr=lr, seed=seed)
                run_folder = folder / "runs" / f"{method}-seed{seed}"
                runs.append(run_in_fresh_process(run, run_folder, resume, device, quiet))
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


def summarise(records: list[dict]) -> dict:
    """Mean and standard deviation over the seeds, a method."""
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
        summary[method] = {
            "seeds": len(mine),
            "trainable_parameters": mine[0]["trainable_parameters"],
            "trainable_share": mine[0]["trainable_parameters"] / mine[0]["total_parameters"],
            "saved_bytes": mine[0]["saved_bytes"],
            **means_and_stds({key: v for key, v in columns.items() if None not in v}),
        }
    return summary
