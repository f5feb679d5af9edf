"""The recipe, step by step: what each step brings over several splits, and what it costs.

    python -m llm.studies.ladder --splits 10 --out data/ladder.json

Plain fine-tuning is the first rung. Then, one after the other: the last epoch's weights in place of
the best on validation, the mean of a message's tokens in place of its last one, the language-model
loss on the messages (Radford et al. 2018, section 3.2), and BPE-dropout (Provilkov et al. 2020).

A learning rate that suits the last rung may be too high for the first, and would make the steps
between them look larger than they are. So every rung has its own, by validation F1 over the splits.
"""

import statistics
from pathlib import Path

from llm.studies.summary import means_and_stds, paired_difference
from llm.studies.worker import run_in_fresh_process
from llm.training.settings import RECIPES, FinetuneSettings
from llm.utils.files import write_json
from llm.utils.program import Parser, positive, run

RUNGS = {
    "plain": {},
    "last epoch": {"keep": "last"},
    "mean of the tokens": {"pool": "mean"},
    "language-model loss": {"lm_loss": 0.5},
    "BPE-dropout": {"bpe_dropout": 0.1},
}
METHODS = ("lora", "full")
RATES = {"lora": (1.5e-3, 3e-3, 5e-3), "full": (4e-4, 8e-4)}
KEYS = ("f1", "accuracy", "roc_auc")


def rung_settings(method: str, rate: float, split_seed: int) -> dict[str, FinetuneSettings]:
    """The settings of every rung: each has the steps of those before it."""
    found, steps = {}, dict(RECIPES["plain"])
    for name, change in RUNGS.items():
        steps |= change
        found[name] = FinetuneSettings(method=method, lr=rate, split_seed=split_seed, **steps)
    return found


def ladder(splits: list[int], work: Path, out: Path, device: str = "auto") -> dict:
    """Fine-tune on every rung, for both methods and every split, and write what came of it.

    Args:
        splits: split seeds.
        work: a folder for the runs; those that are there already are not made again.
        out: the JSON file to write; the figure goes beside it.

    Returns:
        what is written: `rows`, one a method and rung, with the learning rate that was chosen and
        the F1 at every rate (validation's chose), the validation and test metrics' means and
        deviations over the splits, the median seconds of training, and the paired difference to the
        rung before.
    """
    rows, run = [], None
    for method in METHODS:
        before = None
        for name in RUNGS:
            tried = {}
            for rate in RATES[method]:
                records = []
                for split_seed in splits:
                    settings = rung_settings(method, rate, split_seed)[name]
                    folder = work / run_folder(method, name, rate, split_seed)
                    run = run_in_fresh_process(settings, folder, resume=True, device=device)
                    records.append(run["record"])
                tried[rate] = records
            scores = {
                rate: statistics.fmean(record["validation"]["f1"] for record in records)
                for rate, records in tried.items()
            }
            chosen = max(scores, key=scores.get)
            columns = {
                f"{part}_{key}": [record[part][key] for record in tried[chosen]]
                for part in ("validation", "test")
                for key in KEYS
            }
            row = {"method": method, "rung": name, "learning_rate": chosen}
            row["rates"] = [
                {"learning_rate": rate, **_f1_of(records)} for rate, records in tried.items()
            ]
            row |= means_and_stds(columns)
            row["train_seconds"] = statistics.median(r["train_seconds"] for r in tried[chosen])
            if before:
                row["paired"] = {
                    key: paired_difference(values, before[key]) for key, values in columns.items()
                }
            before = columns
            rows.append(row)
    result = {"splits": splits, "device": run["device"], "torch": run["torch"]}
    result |= {"base": run["base"], "data": run["data"], "rows": rows}
    write_json(out, result)
    return result


def _f1_of(records: list[dict]) -> dict:
    columns = {f"{part}_f1": [r[part]["f1"] for r in records] for part in ("validation", "test")}
    return means_and_stds(columns)


def run_folder(method: str, rung: str, rate: float, split_seed: int) -> str:
    """The folder of a run."""
    return f"{method}-{rung.replace(' ', '-')}-lr{rate:g}-split{split_seed}"


def main() -> int:
    """The study as a program. Returns the exit status."""
    parser = Parser(prog="python -m llm.studies.ladder", description=__doc__)
    parser.add_argument("--splits", type=positive, default=10, help="splits of the messages")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/ladder"), help="folder for the runs"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ladder.json"), help="result file")
    parser.add_argument("--device", default="auto", help="where to compute")
    given = parser.parse_args()

    def study() -> None:
        from llm.figures.studies import ladder_figure
        from llm.figures.style import save_figure

        result = ladder(list(range(given.splits)), given.work, given.out, given.device)
        save_figure(ladder_figure(result), given.out.with_suffix(".png"))
        for row in result["rows"]:
            print(
                f"{row['method']:<5} {row['rung']:<20} rate {row['learning_rate']:<7g} "
                f"test F1 {100 * row['test_f1_mean']:.1f}, {row['train_seconds']:.0f} s"
            )

    return run(study)


if __name__ == "__main__":
    raise SystemExit(main())
