"""Where a fine-tuned model is wrong, over several splits, beside counted words and characters.

    python -m llm.studies.mistakes --splits 5 --out data/mistakes.json

One run of LoRA a split, with the recipe's defaults, and the strong baseline on the same messages.
Counted are right and wrong answers: on the test messages at a threshold of one half and at the one
chosen on validation messages, in bins of what the model says, by what a message gives its reader to
act on (`llm.data.signs`), with these signs masked, and with words spelled to deceive
(`llm.data.attacks`). `notebooks/07_where_it_is_wrong.ipynb` reads the record.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from llm.data.attacks import ATTACKS, MASKS
from llm.data.messages import load_messages
from llm.data.signs import WAYS, way_to_answer
from llm.data.splits import Splits, split
from llm.data.tsv import Message, read_labelled
from llm.formats.record import read_record
from llm.inference.adapters import Adapters
from llm.inference.evaluation import best_threshold, f1_at
from llm.studies.baselines import CHARACTERS, fit_tfidf
from llm.training.finetuning import finetune
from llm.training.settings import FinetuneSettings
from llm.utils.files import write_json
from llm.utils.paths import EVERYDAY
from llm.utils.program import Parser, positive, run

Predict = Callable[[Sequence[str]], torch.Tensor]  # texts to probabilities of spam (messages,)
EDGES = (0, 0.02, 0.2, 0.5, 0.8, 0.98, 1)  # of the bins of a reliability diagram


def mistakes(splits: list[int], work: Path, out: Path, device: str = "auto") -> dict:
    """Fine-tune on every split, count the mistakes, and write what came of it.

    Args:
        splits: split seeds.
        work: a folder for the runs; those that are there already are not made again.
        out: the JSON file to write.

    Returns:
        what is written: `entries`, one a split and model, see `counted`.
    """
    collection, everyday = load_messages(), read_labelled(EVERYDAY)
    entries = []
    for split_seed in splits:
        settings = FinetuneSettings(split_seed=split_seed)
        folder = work / f"lora-split{split_seed}"
        finetune(settings, folder, resume=True, device=device)
        parts = split(collection, split_seed)
        models = {
            "lora": adapter_predictor(folder, device),
            CHARACTERS: fit_tfidf(parts.train, parts.validation, characters=True).predict,
        }
        for name, predict in models.items():
            entries.append({"model": name, "split_seed": split_seed})
            entries[-1] |= counted(predict, parts, everyday)
    record = read_record(folder)
    result = {"splits": splits, "device": record.device, "torch": torch.__version__}
    result |= {"edges": EDGES, "data": collection.record(), "entries": entries}
    write_json(out, result)
    return result


def adapter_predictor(folder: str | Path, device: str = "cpu") -> Predict:
    """An adapter's folder as a function from texts to probabilities of spam."""
    from llm.training.device import pick_device

    adapters = Adapters.load({"spam": folder}, pick_device(device))
    adapters.use("spam")
    return lambda texts: adapters.classify(texts)[:, 1]


def counted(predict: Predict, parts: Splits, everyday: Sequence[Message]) -> dict:
    """A model's right and wrong answers.

    Returns:
        `threshold`, chosen on validation messages; `at_half` and `at_threshold`, see `confusion`,
        with `f1`; `bins`, see `reliability`; `ways`: {way to answer: {"spam": messages,
        "missed": of these, "ham": messages, "alarms": of these}} at one half; `everyday`: the same
        on the everyday messages; `masked`: {mask: F1 at one half}; `attacks`: {spelling: how many
        messages are called spam at one half, of all `spam` and of as many `ham`}, with unchanged
        messages under `none`. A spelling that makes everything spam deceives nobody, and whoever
        writes so in earnest pays for it: hence the ham.
    """
    validation = predict([message.text for message in parts.validation])
    threshold = best_threshold([message.label for message in parts.validation], validation)
    texts, labels = [m.text for m in parts.test], [m.label for m in parts.test]
    says = predict(texts)
    spam = [text for text, label in zip(texts, labels) if label]
    ham = [text for text, label in zip(texts, labels) if not label][: len(spam)]
    return {
        "threshold": threshold,
        "at_half": confusion(labels, says, 0.5),
        "at_threshold": confusion(labels, says, threshold),
        "bins": reliability(labels, says),
        "ways": by_way(parts.test, says),
        "everyday": by_way(everyday, predict([message.text for message in everyday])),
        "masked": {
            name: f1_at(labels, respelled(predict, texts, mask, says), 0.5)
            for name, mask in MASKS.items()
        },
        "attacks": {
            name: {
                "messages": len(spam),
                "spam": int((respelled(predict, spam, respell) > 0.5).sum()),
                "ham": int((respelled(predict, ham, respell) > 0.5).sum()),
            }
            for name, respell in {"none": str, **ATTACKS}.items()
        },
    }


def respelled(
    predict: Predict,
    texts: Sequence[str],
    respell: Callable[[str], str],
    known: torch.Tensor | None = None,
) -> torch.Tensor:
    """What a model says of respelled texts.

    Args:
        known: its answers to the texts as they are, where there are any: what respelling leaves
            as it is need not be asked again.
    """
    others = [respell(text) for text in texts]
    if known is None:
        return predict(others)
    says = known.clone()
    changed = [i for i, (old, new) in enumerate(zip(texts, others)) if old != new]
    if changed:
        says[changed] = predict([others[i] for i in changed]).to(says.dtype)
    return says


def confusion(labels: Sequence[int], says: torch.Tensor, threshold: float) -> dict:
    """`true_ham`, `alarms` (ham taken for spam), `missed` (spam taken for ham), `found`, `f1`."""
    truth, spam = torch.tensor(labels, dtype=torch.bool), says >= threshold
    return {
        "true_ham": int((~truth & ~spam).sum()),
        "alarms": int((~truth & spam).sum()),
        "missed": int((truth & ~spam).sum()),
        "found": int((truth & spam).sum()),
        "f1": f1_at(labels, says, threshold),
    }


def reliability(
    labels: Sequence[int], says: torch.Tensor, edges: Sequence[float] = EDGES
) -> list[dict]:
    """What a model says against what is so, a bin of probabilities each.

    Returns:
        for each bin `messages`, `spam` of them, and `said`: the sum of the probabilities.
    """
    truth = torch.tensor(labels)
    bins = []
    for low, high in zip(edges, edges[1:]):
        inside = (says >= low) & ((says < high) | (high == edges[-1]))
        bins.append(
            {
                "messages": int(inside.sum()),
                "spam": int(truth[inside].sum()),
                "said": float(says[inside].double().sum()),
            }
        )
    return bins


def by_way(messages: Sequence[Message], says: torch.Tensor) -> dict[str, dict[str, int]]:
    """Mistakes at one half by what a message gives its reader to act on."""
    table = {way: dict.fromkeys(("spam", "missed", "ham", "alarms"), 0) for way in WAYS}
    for message, probability in zip(messages, says.tolist()):
        row = table[way_to_answer(message.text)]
        row["spam" if message.label else "ham"] += 1
        if message.label and probability <= 0.5:
            row["missed"] += 1
        if not message.label and probability > 0.5:
            row["alarms"] += 1
    return table


def main() -> int:
    """The study as a program. Returns the exit status."""
    parser = Parser(prog="python -m llm.studies.mistakes", description=__doc__)
    parser.add_argument("--splits", type=positive, default=5, help="splits of the messages")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/mistakes"), help="folder for the runs"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/mistakes.json"), help="result file")
    parser.add_argument("--device", default="auto", help="where to compute")
    given = parser.parse_args()

    def study() -> None:
        for entry in mistakes(list(range(given.splits)), given.work, given.out, given.device)[
            "entries"
        ]:
            half = entry["at_half"]
            print(
                f"{entry['model']:<36} split {entry['split_seed']}: F1 {100 * half['f1']:.1f}, "
                f"{half['missed']} missed, {half['alarms']} false alarms"
            )

    return run(study)


if __name__ == "__main__":
    raise SystemExit(main())
