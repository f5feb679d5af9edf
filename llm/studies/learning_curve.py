"""What pretraining is worth: quality against the number of labelled messages.

With thousands of messages many a model gets far. A pretrained one shows what it is good for when
there are few: it knows English before it sees the first label.
"""

import math
import statistics
from collections.abc import Callable, Iterator
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
MEASURES = ("f1", "roc_auc", "average_precision", "accuracy", "balanced_accuracy")
BASELINE = "tfidf_logistic_regression"
# A factor of three apart: what suits 25 messages is looked for far from what suits 3,000.
GRIDS = {"full": (1.5e-4, 4e-4, 1.2e-3), "lora": (1.5e-3, 5e-3, 1.5e-2)}


def schedule(messages: int) -> dict[str, int]:
    """Epochs and batch size for so many messages: two epochs, and at least 100 steps.

    Two epochs of 25 messages would be eight steps, too few for any method to move.
    """
    batch_size = 8 if messages <= 100 else 32
    epochs = math.ceil(100 / steps_per_epoch(messages, batch_size))
    return {"epochs": max(2, epochs), "batch_size": batch_size}


def learning_curve(
    settings: FinetuneSettings,
    work: Path,
    out: Path,
    sizes: tuple[int | None, ...] = SIZES,
    seeds: list[int] | None = None,
    grids: dict[str, tuple[float, ...]] = GRIDS,
    weights: tuple[str, ...] = ("pretrained", "random"),
    search_seeds: list[int] | None = None,
    device: str = "auto",
    report: Callable[[str], None] = print,
) -> dict:
    """Fine-tune on few and on many messages, from learned and from random weights.

    A seed stands for everything that chance decides: which messages are drawn for training (and
    which are left for the test), the head, the order. With 25 messages the draw matters most. The
    same seed is the same draw for every method.

    Who has 25 labelled messages has no others to choose a learning rate by. So it is chosen on
    messages that are held out of those 25, by the mean loss over the seeds, for each method, start
    and size; then all 25 are trained on at that rate.

    Args:
        settings: of all runs; method, weights, rate, limit, epochs, batch size and seeds are filled
            in.
        work: a folder for the runs; those that are there already are not made again.
        out: the JSON file to write.
        seeds: None for 0 to 9.
        grids: the learning rates to choose from, a tuple a method.
        search_seeds: the seeds that a rate is chosen over; None for the first five of `seeds`.
        report: is given a line after every run.

    Returns:
        what is written: `points`, one a run with the test metrics; `summary`, one a line of the
        figure and a size, with mean and standard deviation over the seeds; `rates`, the held-out
        losses that each rate was chosen by.

    Raises:
        InputError: as `llm.training.finetuning.finetune` does.
    """
    seeds = list(range(10)) if seeds is None else seeds
    search_seeds = seeds[:5] if search_seeds is None else search_seeds
    points, rates, record = [], [], None
    collection = load_task(settings.task, settings.data)

    def note(method: str, start: str | None, size: int, seed: int, test: dict) -> None:
        points.append({"method": method, "weights": start, "messages": size, "seed": seed})
        points[-1].update({key: test[key] for key in MEASURES})
        name = f"{method} {start}" if start else method
        report(f"{name}, {size} messages, seed {seed}: test F1 {test['f1']:.3f}")

    for limit in sizes:
        parts = {seed: split(collection, seed, settings.balanced, limit) for seed in seeds}
        size = len(parts[seeds[0]].train)
        for seed in seeds:
            note(BASELINE, None, size, seed, tfidf_logistic_regression(*parts[seed]))
        here = replace(settings, limit=limit, **schedule(size))
        for start in weights:
            for method, grid in grids.items():
                run = replace(here, method=method, weights=start)
                folder = work / f"{method}-{start}-{size}"
                losses = held_out_losses(run, grid, search_seeds, folder, device)
                best = min(losses, key=losses.get)
                rates.append({"method": method, "weights": start, "messages": size})
                grid_rows = [{"learning_rate": r, "held_out_loss": x} for r, x in losses.items()]
                rates[-1].update(chosen=best, grid=grid_rows)
                report(f"{method} {start}, {size} messages: rate {best:g}")
                for seed, place in seeded(replace(run, lr=best), seeds, folder):
                    record = finetune(seed, place, resume=True, device=device)
                    note(method, start, size, seed.seed, record.results["test"])
    result = {
        "model": settings.model,
        "device": record.device,
        "torch": record.torch,
        "data": collection.record(),
        "seeds": seeds,
        "search_seeds": search_seeds,
        "summary": summarise(points),
        "rates": rates,
        "points": points,
    }
    write_json(out, result)
    return result


def held_out_losses(
    run: FinetuneSettings, grid: tuple[float, ...], seeds: list[int], folder: Path, device: str
) -> dict[float, float]:
    """Each rate's loss on messages held out of the training messages, the mean over the seeds."""
    losses = {}
    for rate in grid:
        of_rate = replace(run, lr=rate, hold_out=True)
        losses[rate] = statistics.fmean(
            finetune(seed, place, True, device).results["validation"]["loss"]
            for seed, place in seeded(of_rate, seeds, Path(f"{folder}-search"))
        )
    return losses


def seeded(
    run: FinetuneSettings, seeds: list[int], folder: Path
) -> Iterator[tuple[FinetuneSettings, Path]]:
    """A run with each seed, which is also that of its split, and the folder for it."""
    for seed in seeds:
        place = Path(f"{folder}-lr{run.lr:g}-seed{seed}")
        yield replace(run, seed=seed, split_seed=seed), place


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
