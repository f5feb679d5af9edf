"""What pretraining is worth: quality against the number of labelled messages.

With thousands of messages many a model gets far. A pretrained one shows what it is good for when
there are few: it knows English before it sees the first label.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llm.data.batching import steps_per_epoch
from llm.data.messages import load_task
from llm.data.splits import split
from llm.studies.baselines import tfidf_logistic_regression
from llm.studies.summary import means_and_stds
from llm.training.finetuning import finetune
from llm.training.settings import FinetuneSettings
from llm.utils.files import write_json

SIZES = (25, 50, 100, 250, 500, 1000, None)  # training messages; None: all
MEASURES = ("accuracy", "balanced_accuracy", "f1")
BASELINE = "tfidf_logistic_regression"


def schedule(messages: int) -> dict[str, int]:
    """Epochs and batch size for so many messages: five epochs, and at least 100 steps.

    Five epochs of 25 messages would be five steps, too few for any method to move.
    """
    batch_size = 8 if messages <= 100 else 32
    epochs = math.ceil(100 / steps_per_epoch(messages, batch_size))
    return {"epochs": max(5, epochs), "batch_size": batch_size}


def learning_curve(
    settings: FinetuneSettings,
    work: Path,
    out: Path,
    sizes: tuple[int | None, ...] = SIZES,
    seeds: list[int] | None = None,
    methods: tuple[str, ...] = ("full", "lora"),
    weights: tuple[str, ...] = ("pretrained", "random"),
    device: str = "auto",
    report: Callable[[str], None] = print,
) -> dict:
    """Fine-tune on few and on many messages, from learned and from random weights.

    A seed stands for everything that chance decides: which messages are drawn for training (and
    which are left for the test), the head, the order. With 25 messages the draw matters most. The
    same seed is the same draw for every method. The learning rates are those that were chosen
    with all messages.

    Args:
        settings: of all runs; method, weights, limit, epochs, batch size and seeds are filled in.
        work: a folder for the runs; those that are there already are not made again.
        out: the JSON file to write.
        seeds: None for 0, 1 and 2.
        report: is given a line after every run.

    Returns:
        what is written: `points`, one a run with the test metrics; `summary`, one a line of the
        figure and a size, with mean and standard deviation over the seeds.

    Raises:
        InputError: as `llm.training.finetuning.finetune` does.
    """
    seeds = [0, 1, 2] if seeds is None else seeds
    points, record = [], None
    collection = load_task(settings.task, settings.data)

    def note(method: str, start: str | None, size: int, seed: int, test: dict) -> None:
        measured = {key: test[key] for key in MEASURES}
        points.append({"method": method, "weights": start, "messages": size, "seed": seed})
        points[-1].update(measured)
        name = f"{method} {start}" if start else method
        report(f"{name}, {size} messages, seed {seed}: test F1 {measured['f1']:.3f}")

    for seed in seeds:
        for limit in sizes:
            parts = split(collection, seed, settings.balanced, limit)
            size = len(parts.train)
            note(BASELINE, None, size, seed, tfidf_logistic_regression(*parts))
            for start in weights:
                for method in methods:
                    run = replace(
                        settings,
                        method=method,
                        weights=start,
                        lr=None,
                        limit=limit,
                        seed=seed,
                        split_seed=seed,
                        **schedule(size),
                    )
                    folder = work / f"{method}-{start}-{size}-seed{seed}"
                    record = finetune(run, folder, resume=True, device=device)
                    note(method, start, size, seed, record.results["test"])
    result = {
        "model": settings.model,
        "device": record.device,
        "torch": record.torch,
        "data": collection.record(),
        "seeds": seeds,
        "summary": summarise(points),
        "points": points,
    }
    write_json(out, result)
    return result


def summarise(points: list[dict]) -> list[dict]:
    """Mean and standard deviation over the seeds, for each method, start and size."""
    groups: dict[tuple, list[dict]] = {}
    for point in points:
        key = (point["method"], point["weights"], point["messages"])
        groups.setdefault(key, []).append(point)
    return [
        {
            "method": method,
            "weights": weights,
            "messages": messages,
            "seeds": len(group),
            **means_and_stds({key: [point[key] for point in group] for key in MEASURES}),
        }
        for (method, weights, messages), group in groups.items()
    ]
