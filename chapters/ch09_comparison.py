"""Chapter 9. Comparison and adapters: four methods side by side, many tasks on one base

Which method is best cannot be read off one run: another split of the messages, another seed,
another answer. So every method is run from the same base on the same ten splits, and reported with
its spread, beside two baselines that need no language model at all. Then the other half of LoRA's
promise: a base is kept once, each task adds an adapter, and adapters are exchanged in no time.

You will see the results of the whole comparison (from data/results.json), what many tasks take on
disk, and two tasks taught to one base: the adapter in use decides which question it answers,
message by message if wanted. `--full` runs the whole comparison anew, four methods on ten splits
(most of an hour on two cores; `--splits 1` is a tenth of that).

Source: Hu et al. 2021, section 4.2, "Practical Benefits and Limitations".
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # works without installing, too
import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch
from lesson import lesson, listing, patience, save, say, section, show, try_next, weights_option
from lora_plots import storage_figure

from llm.figures.comparison import overview_figure
from llm.inference.adapters import Adapters
from llm.lora.inject import replace_linear_with_lora
from llm.lora.settings import METHODS
from llm.model.classifier import GPTClassifier
from llm.model.config import PRESETS
from llm.model.parameters import fingerprint, parameter_counts
from llm.studies.compare import compare
from llm.studies.tables import megabytes, table
from llm.training.finetuning import finetune
from llm.training.settings import DEVICES, FinetuneSettings
from llm.utils.files import read_json, write_json
from llm.utils.paths import DATA
from llm.utils.program import positive

RESULTS = DATA / "results.json"


def options(parser):
    weights_option(parser)
    parser.add_argument("--limit", type=positive, default=300, help="training messages a task")
    parser.add_argument("--epochs", type=positive, default=2, help="for the two tasks")
    parser.add_argument("--full", action="store_true", help="run the whole comparison anew")
    parser.add_argument("--splits", type=positive, default=10, help="for --full")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="for --full")


def teach(options):
    side_by_side(options)
    many_tasks(options.out)
    two_tasks(options)
    try_next(
        "python -m llm compare --methods lora --splits 3 --rank 1 --out runs/rank1: an eighth of "
        "the adapter. Does the rank matter? And with --lr 1e-2 or 1e-4 beside it?",
        'python -m llm finetune --task question --out runs/question, then predict --from it "where '
        'are you": a question without its mark.',
        "a third task: one more line in TASKS of llm/data/tasks.py, one more adapter on this base.",
    )


def side_by_side(options):
    section("Four methods side by side")
    if options.full:
        write_json(RESULTS, run_comparison(options))
    results = read_json(RESULTS)
    data = results["data"]
    splits = len({run["split_seed"] for run in results["runs"]})
    say(
        f"{results['model']}, {results['weights']} weights, {data['train']:,} training messages, "
        f"{data['test']:,} test messages, {splits} split{'s' if splits > 1 else ''}, on "
        f"{results['device']}. Mean and standard deviation over the splits; then differences on "
        "the same split, with their 95 % interval:"
    )
    listing(*table(results).splitlines())
    say(
        "Read accuracy beside F1: answering ham to everything is right for nine messages in ten. "
        "A difference whose interval holds zero cannot be told from none."
    )
    save(overview_figure(results), options.out, "ch09_comparison.png")


def run_comparison(options) -> dict:
    settings = FinetuneSettings(weights=options.weights)
    out = options.out / "compare"
    return compare(
        list(METHODS),
        [options.seed],
        settings,
        out,
        resume=True,
        device=options.device,
        splits=list(range(options.splits)),
    )


def many_tasks(out):
    section("Many tasks")
    say(
        "What is on disk, or in memory, for so many tasks: a fine-tuned copy each, or one base and "
        "an adapter each (float32, rank 8):"
    )
    rows, curves = [], {}
    for preset in ("mini", "gpt2", "gpt2-xl"):
        with torch.device("meta"):
            model = GPTClassifier(PRESETS[preset])
        whole = 4 * parameter_counts(model)["total"]
        replace_linear_with_lora(model, rank=8, alpha=16)
        adapter = 4 * parameter_counts(model)["trainable"]
        curves[preset] = (whole, adapter)
        for tasks in (1, 10, 100):
            shared = whole + tasks * adapter
            saved = f"{tasks * whole / shared:.1f}"
            rows.append((preset, tasks, megabytes(tasks * whole), megabytes(shared), saved))
    show(["base", "tasks", "a copy each", "base and adapters", "times less"], rows)
    say("One task is no gain: the base has to be there too. From the second on LoRA wins.")
    save(storage_figure(curves["gpt2"]), out, "ch09_storage.png")


def two_tasks(options):
    section("Two tasks, one base")
    say(
        "Spam or ham? And: was this a question, once the question marks are taken out? Each is "
        f"taught with LoRA on {options.limit} messages, {options.epochs} epochs:"
    )
    with tempfile.TemporaryDirectory() as folder:
        folders, rows = {}, []
        for task in ("spam", "question"):
            folders[task] = Path(folder) / task
            settings = FinetuneSettings(
                task=task,
                weights=options.weights,
                limit=options.limit,
                epochs=options.epochs,
                batch_size=8,  # so few messages would make too few steps of 32
                seed=options.seed,
            )
            patience(f"training and measuring, {task}", 4 + 0.01 * options.limit * options.epochs)
            run = finetune(settings, folders[task], device="cpu", quiet=False, report=False)
            record = run.results
            metrics = record["test"]
            rows.append(
                (
                    task,
                    megabytes(record["saved_bytes"]),
                    f"{100 * metrics['accuracy']:.1f}",
                    f"{100 * metrics['f1']:.1f}",
                    f"{100 * metrics['roc_auc']:.1f}",
                )
            )
        show(["task", "adapter", "test accuracy (%)", "F1 (%)", "ROC AUC (%)"], rows)
        adapters = Adapters.load(folders)
    before = fingerprint_of_base(adapters)
    messages = [
        "Free entry! Text WIN to 80086 to claim your prize",
        "where are you now",
        "Ok see you at home",
    ]
    answers = {}
    for task in adapters:
        started = time.perf_counter()
        adapters.use(task)
        milliseconds = 1000 * (time.perf_counter() - started)
        answers[task] = adapters.classify(messages)[:, 1].tolist()
        print(f"  switched to {task:<10} in {milliseconds:.2f} ms")
    print()
    show(
        ["message", *(f"P({adapters[task].labels[1]})" for task in answers)],
        [
            (text, *(f"{answers[task][index]:.3f}" for task in answers))
            for index, text in enumerate(messages)
        ],
    )
    names = ["spam", "question", "spam"]
    mixed = adapters.classify_mixed(messages, names)[:, 1].tolist()
    apart = [answers[name][index] for index, name in enumerate(names)]
    difference = max(abs(one - other) for one, other in zip(mixed, apart))
    same = fingerprint_of_base(adapters) == before
    say("All in one forward pass, each message by the adapter of its own task:")
    listing(
        f"largest difference from one after the other  {difference:.0e}",
        f"the base is the same, bit for bit            {same}",
    )


def fingerprint_of_base(adapters) -> str:
    """What the weights of the base hash to, without any adapter."""
    in_use = adapters.in_use
    adapters.use(None)
    found = fingerprint(adapters.model.body)
    adapters.use(in_use)
    return found


if __name__ == "__main__":
    lesson(teach, __doc__, options)
