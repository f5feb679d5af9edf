"""Learning rates chosen on the validation messages alone, and the record of how.

A method that is given a rate that does not suit it looks worse than it is: full fine-tuning at
LoRA's rate forgets what it knew, LoRA at the rate of full fine-tuning hardly moves. So each method
of a comparison gets its own, and the test messages have no part in the choice.

    python -m llm.studies.learning_rates --out runs/rates.json                  wider than the first
    python -m llm.studies.learning_rates --batch-size 8 --out runs/rates_8.json
    python -m llm.studies.learning_rates --recipe plain --out runs/rates_plain.json
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from llm.studies.summary import means_and_stds
from llm.training.finetuning import finetune
from llm.training.settings import RECIPES, FinetuneSettings
from llm.utils.files import write_json
from llm.utils.program import Parser, positive, run

# Neighbours in a grid are a factor of 2 to 3 apart: finer steps would follow the splits.
GRIDS = {
    "full": (1e-4, 2e-4, 4e-4),
    "last_block": (3e-4, 1e-3, 3e-3),
    "head": (3e-3, 1e-2, 3e-2),
    "lora": (1.5e-3, 3e-3, 5e-3),
}
# Where the first search chose at its upper edge, a second one looks beyond it.
WIDER = {
    "full": (2e-4, 4e-4, 8e-4, 1.6e-3),
    "last_block": (1e-3, 3e-3, 6e-3, 1.2e-2),
    "head": (3e-3, 1e-2, 3e-2),
    "lora": (3e-3, 5e-3, 1e-2, 2e-2),
}
WIDER_8 = {  # for batches of 8
    "full": (5e-5, 1e-4, 2e-4, 4e-4, 8e-4),
    "last_block": (3e-4, 1e-3, 3e-3, 6e-3),
    "head": (1e-3, 3e-3, 1e-2, 3e-2),
    "lora": (7.5e-4, 1.5e-3, 3e-3, 5e-3, 1e-2),
}
PLAIN = {  # for the recipe nearest to the book's
    "full": (1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3),
    "last_block": (3e-4, 1e-3, 3e-3, 6e-3),
    "head": (1e-3, 3e-3, 1e-2, 3e-2),
    "lora": (3.75e-4, 7.5e-4, 1.5e-3, 3e-3, 5e-3, 1e-2),
}


def search_learning_rates(
    grids: dict[str, tuple[float, ...]],
    seeds: list[int],
    settings: FinetuneSettings,
    work: Path,
    out: Path,
    device: str = "auto",
    report: Callable[[str], None] = print,
) -> dict:
    """Fine-tune with every rate and seed, and choose by the mean over the seeds.

    Args:
        grids: the rates to try, a tuple a method.
        seeds: each with its own split, so that no single draw of validation messages decides.
        settings: of all runs; method, rate and seeds are filled in.
        work: a folder for the runs. One that is there already is not made again, so a search that
            was interrupted goes on.
        out: the JSON file to write.
        report: is given a line after every run.

    Returns:
        what is written: `methods`, {method: {"chosen": rate, "grid": [...]}} where the grid has
        for every rate the validation F1 and loss a seed, their mean and standard deviation; and
        what it was made from. Highest mean F1 wins, then lowest mean loss.

    Raises:
        InputError: as `llm.training.finetuning.finetune` does.
    """
    methods, record = {}, None
    for method, rates in grids.items():
        grid = []
        for rate in rates:
            measured = []
            for seed in seeds:
                run = replace(settings, method=method, lr=rate, seed=seed, split_seed=seed)
                folder = work / f"{method}-lr{rate:g}-seed{seed}"
                record = finetune(run, folder, resume=True, device=device)
                measured.append(record.results["validation"])  # never ["test"]
                report(f"{method} {rate:g} seed {seed}: validation F1 {measured[-1]['f1']:.3f}")
            columns = {f"validation_{key}": [m[key] for m in measured] for key in ("f1", "loss")}
            grid.append({"learning_rate": rate, **columns, **means_and_stds(columns)})
        best = max(grid, key=lambda row: (row["validation_f1_mean"], -row["validation_loss_mean"]))
        methods[method] = {"chosen": best["learning_rate"], "grid": grid}
    result = {
        "methods": methods,
        "seeds": seeds,
        "settings": {**asdict(settings), "method": None, "lr": None, "seed": None},
        "base": asdict(record.base),
        "data": record.data,
        "device": record.device,
        "torch": record.torch,
    }
    write_json(out, result)
    return result


def main() -> int:
    """The wider search as a program. Returns the exit status."""
    parser = Parser(prog="python -m llm.studies.learning_rates", description=__doc__)
    parser.add_argument(
        "--batch-size", type=positive, choices=(8, 32), default=32, help="of all runs"
    )
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="default", help="of all runs")
    parser.add_argument("--seeds", type=positive, default=5, help="splits")
    parser.add_argument("--work", type=Path, default=Path("runs/rates"), help="folder for the runs")
    parser.add_argument("--out", type=Path, default=Path("runs/rates.json"), help="result file")
    parser.add_argument("--device", default="auto", help="where to compute")
    given = parser.parse_args()

    def search() -> None:
        plain = given.recipe == "plain"
        grids = PLAIN if plain else WIDER_8 if given.batch_size == 8 else WIDER
        settings = FinetuneSettings(batch_size=given.batch_size, **RECIPES[given.recipe])
        work = given.work / f"{given.recipe}-{given.batch_size}"
        seeds = list(range(given.seeds))
        search_learning_rates(grids, seeds, settings, work, given.out, given.device)

    return run(search)


if __name__ == "__main__":
    raise SystemExit(main())
