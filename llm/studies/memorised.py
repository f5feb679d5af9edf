"""What voices remember: how often they repeat ten tokens in a row of what they were trained on.

    python -m llm.studies.memorised --from runs/voices --count 1000 --out runs/memorised.json

For every run of a `compare --task writing`, and for the base. The control are unseen messages: what
stands there as well is a phrase that everybody writes. There are fewer of them, so training
messages are also looked through in parts of their number, and the mean of the parts is compared.
"""

import statistics
from pathlib import Path

from llm.data.tokenizer import Tokenizer
from llm.formats.base import load_base, load_tokenizer
from llm.formats.finetuned import load_finetuned
from llm.inference.generate import write_documents
from llm.inference.memorised import numbers_in, repeated
from llm.studies.voice_measures import texts_of
from llm.studies.voices import RESULTS, run_name
from llm.training.device import pick_device
from llm.training.settings import FinetuneSettings
from llm.utils.files import read_json, write_json
from llm.utils.program import Parser, positive, run

LENGTH = 10  # tokens in a row
TOKENS = 100  # of a message that is written, at most


def repeats(
    tokenizer: Tokenizer, written: list[list[int]], train: list[str], unseen: list[str]
) -> dict:
    """How much of what was written stands in training texts, and how much in unseen ones.

    Args:
        written: token ids of each generated document.

    Returns:
        `train`, `unseen`: `llm.inference.memorised.repeated`; `train_part_share`, of documents: the
        mean over parts of the training texts as many as the unseen ones; `train_numbers` and
        `unseen_numbers`: how many different telephone numbers of each were written.
    """
    known = {
        name: tokenizer.encode_batch(texts)
        for name, texts in (("train", train), ("unseen", unseen))
    }
    size = len(unseen)
    parts = [known["train"][at : at + size] for at in range(0, len(train) - size + 1, size)]
    numbers = set().union(*(numbers_in(tokenizer.decode(ids)) for ids in written))
    return {
        **{name: repeated(written, ids, LENGTH) for name, ids in known.items()},
        "train_part_share": statistics.fmean(
            repeated(written, part, LENGTH)["share"] for part in parts or [known["train"]]
        ),
        "train_numbers": len(numbers & set().union(*map(numbers_in, train))),
        "unseen_numbers": len(numbers & set().union(*map(numbers_in, unseen))),
    }


def memorised(folder: Path, count: int, out: Path, device: str = "auto") -> dict:
    """Let each run of a comparison write, and the base, and count what they repeat.

    Args:
        folder: what `llm.studies.voices.compare_voices` wrote.
        count: messages that each writes, at the model's own probabilities.

    Returns:
        what is written to `out`: `rows`, one a run, with `repeats`; the base's way is "base".

    Raises InputError where the folder or one of its runs is not there.
    """
    results = read_json(Path(folder) / RESULTS)
    settings = FinetuneSettings.from_dict(results["settings"])
    where, rows = pick_device(device), []

    def look(model, tokenizer, way: str, seed: int, split_seed: int) -> None:
        here = FinetuneSettings.from_dict({**results["settings"], "split_seed": split_seed})
        texts = texts_of(here)
        written = write_documents(model, tokenizer.eot_id, count, TOKENS, seed)
        found = repeats(tokenizer, written, texts.train, texts.test)
        rows.append({"way": way, "seed": seed, "split_seed": split_seed, **found})

    for split_seed in results["splits"]:
        base = load_base(settings.model, settings.weights, settings.seed, where).eval()
        tokenizer = load_tokenizer(settings.model, base.config.vocab_size)
        look(base, tokenizer, "base", results["seeds"][0], split_seed)
    for record in results["runs"]:
        name = run_name(record["way"], record["seed"], record["split_seed"])
        model, tokenizer, _ = load_finetuned(Path(folder) / "runs" / name, where, writes=True)
        look(model, tokenizer, record["way"], record["seed"], record["split_seed"])
    result = {
        "length": LENGTH,
        "written": count,
        "tokens_at_most": TOKENS,
        "data": results["data"],
        "rows": rows,
    }
    write_json(out, result)
    return result


def main() -> int:
    """The study as a program. Returns the exit status."""
    parser = Parser(prog="python -m llm.studies.memorised", description=__doc__)
    parser.add_argument(
        "--from", dest="folder", type=Path, default=Path("runs/voices"), help="a comparison"
    )
    parser.add_argument("--count", type=positive, default=1000, help="messages that each writes")
    parser.add_argument("--out", type=Path, default=Path("runs/memorised.json"), help="result file")
    parser.add_argument("--device", default="auto", help="where to compute")
    given = parser.parse_args()

    def study() -> None:
        from llm.figures.memorised import memorised_figure
        from llm.figures.style import save_figure

        result = memorised(given.folder, given.count, given.out, given.device)
        ways = {row["way"] for row in result["rows"]}
        if "full" in ways and any(way.startswith("lora_") for way in ways):
            voice = " ".join(result["data"]["text"])
            save_figure(memorised_figure(result, voice), given.out.with_suffix(".png"))
        for row in result["rows"]:
            print(
                f"{row['way']:<12} seed {row['seed']}: {row['train']['share']:.1%} of messages "
                f"repeat training messages, {row['train_part_share']:.1%} as many as are unseen, "
                f"{row['unseen']['share']:.1%} unseen ones; {row['train_numbers']} numbers"
            )

    return run(study)


if __name__ == "__main__":
    raise SystemExit(main())
