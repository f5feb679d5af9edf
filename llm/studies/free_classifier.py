"""Is the classifier for free any good? Bayes with two voices beside a head, and beside baselines.

    python -m llm.studies.free_classifier --splits 10 --limits 100,500 --out runs/free.json

On each split two voices are trained, each on the training messages of its label alone; then
log p(message | spam) - log p(message | ham) + log prior says which it is (`llm.inference.bayes`).
Beside it stand LoRA with a head and counted words, on the same messages.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llm.data.messages import load_messages
from llm.data.splits import Splits, split
from llm.data.tokenizer import END_OF_TEXT
from llm.data.tsv import LABELS
from llm.inference.adapters import Adapters
from llm.inference.bayes import classify_by_voices, log_prior
from llm.inference.evaluation import best_threshold, classification_metrics, f1_at
from llm.studies.baselines import baselines
from llm.studies.summary import means_and_stds
from llm.studies.worker import run_in_fresh_process
from llm.training.device import pick_device
from llm.training.settings import WRITING_BATCH_SIZE, FinetuneSettings
from llm.utils.files import make_folder, write_json, write_text
from llm.utils.program import Parser, positive, run

KEYS = ("f1", "accuracy", "roc_auc", "f1_at_threshold")
STEPS = 40  # of a voice at least: few messages are read more often


def voice_settings(common: FinetuneSettings, texts: Sequence[str], path: Path) -> FinetuneSettings:
    """A run on these texts and no others, which are laid into a file for it."""
    write_text(path, f"\n{END_OF_TEXT}\n".join(texts))
    a_pass = -(-len(texts) // WRITING_BATCH_SIZE)
    return replace(
        common,
        task="writing",
        text=[str(path)],
        data=None,
        limit=None,
        all_messages=True,
        batch_size=None,
        lr=None,
        epochs=max(common.epochs, -(-STEPS // a_pass)),
    )


def by_voices(
    parts: Splits, common: FinetuneSettings, work: Path, device: str = "auto", quiet: bool = True
) -> dict:
    """Train two voices on the training messages, classify the test messages by them.

    Returns:
        `llm.inference.evaluation`'s metrics on the test messages, and `f1_at_threshold`, the
        threshold chosen on the validation messages.
    """
    work = make_folder(work)
    folders, counts = {}, []
    for number, label in enumerate(LABELS):
        texts = [message.text for message in parts.train if message.label == number]
        settings = voice_settings(common, texts, work / f"{label}.txt")
        folders[label] = work / label
        run_in_fresh_process(settings, folders[label], True, device, quiet)
        counts.append(len(texts))
    adapters, prior = Adapters.load(folders, pick_device(device)), log_prior(counts)

    def answers(part):
        texts = [message.text for message in part]
        found = classify_by_voices(adapters, texts, LABELS, prior)[:, 1]
        return [message.label for message in part], found

    threshold = best_threshold(*answers(parts.validation))
    truth, found = answers(parts.test)
    return {
        **classification_metrics(truth, found),
        "f1_at_threshold": f1_at(truth, found, threshold),
    }


def free_classifier(
    splits: Sequence[int],
    limits: Sequence[int | None],
    settings: FinetuneSettings,
    work: Path,
    out: Path,
    device: str = "auto",
    quiet: bool = True,
) -> dict:
    """Measure it over splits, with few training messages and with all.

    Args:
        splits: split seeds.
        limits: numbers of training messages; None: all of them.
        settings: of all runs: model, weights, LoRA, data.
        work: a folder for the runs; those that are there already are not made again.
        out: the JSON file to write.

    Returns:
        what is written: `rows`, one a way, limit and split; `summary`, their means and deviations.
    """
    rows, collection = [], load_messages(settings.data)
    for limit in limits:
        for split_seed in splits:
            here = replace(settings, split_seed=split_seed, limit=limit)
            parts = split(collection, split_seed, limit=limit)
            place = work / f"{limit or 'all'}-split{split_seed}"
            a_pass = -(-len(parts.train) // here.batch_size)
            head = replace(here, epochs=max(here.epochs, -(-STEPS // a_pass)))
            head_run = run_in_fresh_process(head, place / "head", True, device, quiet)
            found = {
                "voices": by_voices(parts, here, place, device, quiet),
                "lora": head_run["record"]["test"],
                **{name: m for name, m in baselines(parts).items() if name != "majority"},
            }
            rows += [
                {
                    "way": way,
                    "messages": len(parts.train),
                    "split_seed": split_seed,
                    **{key: metrics[key] for key in KEYS},
                }
                for way, metrics in found.items()
            ]
    result = {
        "splits": list(splits),
        "data": collection.record(),
        "device": head_run["device"],
        "torch": head_run["torch"],
        "summary": summarise(rows),
        "rows": rows,
    }
    write_json(out, result)
    return result


def summarise(rows: Sequence[dict]) -> list[dict]:
    """Mean and standard deviation over the splits, a way and number of messages."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["messages"], row["way"]), []).append(row)
    return [
        {
            "messages": messages,
            "way": way,
            "splits": len(group),
            **means_and_stds({key: [row[key] for row in group] for key in KEYS}),
        }
        for (messages, way), group in groups.items()
    ]


def sizes(text: str) -> list[int | None]:
    """Numbers of training messages from a command line; None is all of them.

    >>> sizes("100,all")
    [100, None]
    """
    return [None if size == "all" else positive(size) for size in text.split(",")]


def main() -> int:
    """The study as a program. Returns the exit status."""
    parser = Parser(prog="python -m llm.studies.free_classifier", description=__doc__)
    parser.add_argument("--splits", type=positive, default=10, help="splits of the messages")
    parser.add_argument(
        "--limits", type=sizes, default="100,500,all", help="numbers of training messages"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/free"), help="folder for the runs")
    parser.add_argument("--out", type=Path, default=Path("runs/free.json"), help="result file")
    parser.add_argument("--device", default="auto", help="where to compute")
    given = parser.parse_args()

    def study() -> None:
        result = free_classifier(
            range(given.splits),
            given.limits,
            FinetuneSettings(),
            given.work,
            given.out,
            given.device,
        )
        for row in result["summary"]:
            print(
                f"{row['messages']:>5} messages, {row['way']:<36} F1 {100 * row['f1_mean']:.1f}, "
                f"ROC AUC {100 * row['roc_auc_mean']:.1f}"
            )

    return run(study)


if __name__ == "__main__":
    raise SystemExit(main())
