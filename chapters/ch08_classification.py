"""Chapter 8. Classification: a head, and two ways to train what is below it

A language model ends in a score for every token of its vocabulary. To tell spam from ham two
scores are enough, so a small head takes their place: two rows of 256 numbers. What do they read?
The hidden state of a message's last real token, the only one that has seen the whole message; or
the mean over all its tokens, which did better here (data/ladder.json) and is the default. Then the
model is fine-tuned: all of it, or, with LoRA, a few percent of it.

You will see that a message's answer does not depend on what stands beside it in a batch, and how
it does when padding is read; full fine-tuning against LoRA on a short run, with loss, time and
memory; the mistakes that remain; where the time of a step goes; and how the learning rates were
chosen. `--search` makes that choice anew, on the validation messages alone (an hour and more on two
cores).

Source: Radford et al. 2018, section 3.2 (the head); Hu et al. 2021, section 5 (the comparison).
"""

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # works without installing, too
import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch
from lesson import lesson, patience, save, say, section, show, try_next, weights_option

from llm.benchmark.peers import Job, prepare
from llm.data.batching import collate, encode_messages
from llm.data.messages import load_messages
from llm.data.splits import split
from llm.data.tokenizer import mini_tokenizer
from llm.figures.studies import finetuning_figure, search_figure
from llm.formats.base import load_base
from llm.formats.finetuned import load_finetuned
from llm.inference.evaluation import classify
from llm.model.classifier import GPTClassifier
from llm.model.parameters import share
from llm.studies.learning_rates import WIDER, search_learning_rates
from llm.studies.tables import megabytes
from llm.training.finetuning import finetune
from llm.training.settings import DEVICES, LEARNING_RATES, FinetuneSettings
from llm.utils.files import read_json
from llm.utils.paths import DATA
from llm.utils.program import positive

METHODS = ("full", "lora")
RATES = DATA / "learning_rates_wider.json"


def options(parser):
    weights_option(parser)
    parser.add_argument("--limit", type=positive, default=400, help="training messages")
    parser.add_argument("--epochs", type=positive, default=2)
    parser.add_argument("--search", action="store_true", help="choose the learning rates anew")
    parser.add_argument("--rounds", type=positive, default=6, help="timed steps of each way")
    parser.add_argument("--seeds", type=positive, default=5, help="splits, for --search")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="for --search")


def teach(options):
    the_last_real_token(options)
    settings = FinetuneSettings(
        weights=options.weights,
        limit=options.limit,
        epochs=options.epochs,
        batch_size=8,  # so few messages would make too few steps of 32
        seed=options.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        folders = {method: Path(folder) / method for method in METHODS}
        runs = full_against_lora(settings, folders)
        histories = {method: read_json(folders[method] / "history.json") for method in METHODS}
        mistakes(folders["lora"])
    where_the_time_goes(options)
    learning_rates(settings, options)
    save(finetuning_figure(histories, runs), options.out, "ch08_classification.png")
    try_next(
        f"--limit 100 against --limit 1500 (now {options.limit}): with few messages the two "
        "methods differ more from seed to seed than from each other.",
        "--weights random: the same head, the same messages, and no English to build on. What is "
        "left is what words alone tell.",
        'METHODS = ("full", "last_block", "head", "lora"), and --epochs 5: the two new ones '
        "compute the frozen blocks once in all, not once an epoch. Which of them is worse? Chapter "
        "9 has ten splits.",
    )


def the_last_real_token(options):
    section("The last real token")
    tokenizer = mini_tokenizer()
    body = load_base("mini", options.weights, options.seed)
    torch.manual_seed(options.seed)
    model = GPTClassifier(body.config, body=body).eval()
    texts = ["Are you home yet?", *(m.text for m in split(load_messages(), seed=0).validation)]
    encoded = encode_messages(tokenizer, texts, None, model.config.context_length)
    say(
        f'"{texts[0]}" is {len(encoded.ids[0])} tokens. Beside a longer message it is padded. The '
        "head, untrained still, reads the last real token; beside it what a head would say that "
        "reads the last column, padding or not. Score of spam minus score of ham:"
    )
    rows = []
    with torch.no_grad():
        for width in (0, 32, 64, 128, 256):
            batch = collate(encoded, [0], width=width)
            real = model(batch.ids, batch.lengths)[0]  # (n_classes,)
            last_column = model.head(body.hidden_states(batch.ids)[0, -1])
            margins = [f"{float(logits[1] - logits[0]):+.6f}" for logits in (real, last_column)]
            rows.append((batch.ids.shape[1], *margins))
        longest = max(range(len(texts)), key=lambda index: len(encoded.ids[index]))
        beside = collate(encoded, [0, longest])
        alone = collate(encoded, [0])
        difference = (
            model(beside.ids, beside.lengths)[0] - model(alone.ids, alone.lengths)[0]
        ).abs()
    show(["padded to", "last real token", "last column"], rows)
    say(
        f"Beside the longest message, of {len(encoded.ids[longest])} tokens, the scores move by "
        f"{difference.max():.0e}: rounding. Lengths are carried along with the ids; looking for a "
        "padding token instead goes wrong as soon as a message contains it."
    )


def full_against_lora(settings, folders) -> dict:
    section("Full fine-tuning against LoRA")
    runs = {}
    for method, folder in folders.items():
        run = replace(settings, method=method, lr=None)
        patience(f"training and measuring, {method}", 4 + 0.01 * settings.limit * settings.epochs)
        runs[method] = finetune(run, folder, device="cpu", quiet=False, report=False)
    data = runs["full"].data
    say(
        f"From the same base, the same head and the same order of {data['train']} training "
        f"messages, {settings.epochs} epochs. Each method has its own learning rate. Both read the "
        "mean of a message's tokens, and predict each next token of the messages beside the label, "
        "the defaults of `finetune`; `--recipe plain` there is the head of above and the label "
        "alone."
    )
    lines = {
        "trained numbers": lambda r: f"{r['trainable_parameters']:,}",
        "share of all": lambda r: share(r["trainable_parameters"] / r["total_parameters"]),
        "learning rate": lambda r: f"{r['learning_rate']:g}",
        "stored": lambda r: megabytes(r["saved_bytes"]),
        "training": lambda r: f"{r['train_seconds']:.1f} s",
        **{
            f"memory: {kind}": lambda r, kind=kind: megabytes(r["memory_bytes"][kind])
            for kind in ("weights", "gradients", "optimizer", "activations")
        },
        "validation F1": lambda r: f"{100 * r['validation']['f1']:.1f} %",
        "test accuracy": lambda r: f"{100 * r['test']['accuracy']:.1f} %",
        "test F1": lambda r: f"{100 * r['test']['f1']:.1f} %",
    }
    records = [runs[method].results for method in METHODS]
    show(["", *METHODS], [(name, *map(tell, records)) for name, tell in lines.items()])
    say(
        "Gradients and optimizer state all but vanish with LoRA. The weights stay, and so do the "
        "activations: gradients for the first block's A and B flow through all blocks above it. "
        "One test message is 0.1 points of accuracy and about half a point of F1, and this is one "
        "seed: chapter 9 has more."
    )
    return {method: run.results for method, run in runs.items()}


def where_the_time_goes(options):
    section("Where the time goes")
    say(
        "For each token a Linear multiplies three times: forward, for the gradient of its input, "
        "and for the gradient of its weights. LoRA leaves out the third, so a step ought to take "
        "two thirds of the time. It does not quite, and least of all as written in chapter 7: x A "
        "B is a tensor of its own that another pass adds, and every thin product with A or B has "
        "to read a whole activation for next to no arithmetic. llm/lora/fused.py adds in place, "
        "and lets query, key and value share their x A. The results are the same, to rounding; "
        "the times:"
    )
    patience("three steps a round", 1.2 * (1 + options.rounds))
    base = Job(shape="mini", rank=8, batch_size=32)
    steps = {
        "full fine-tuning": prepare(replace(base, method="full")),
        "LoRA, step by step": prepare(replace(base, contender="naive")),
        "LoRA, fused": prepare(base),
    }
    seconds = {name: [] for name in steps}
    for number in range(
        1 + options.rounds
    ):  # in turn, so that whatever else the machine does disturbs all alike
        for name, step in steps.items():
            started = time.perf_counter()
            step.run(number)
            seconds[name].append(time.perf_counter() - started)
    full = seconds["full fine-tuning"][1:]  # the first step sets things up
    rows = []
    for name, times in seconds.items():
        ratio = statistics.median(slow / quick for slow, quick in zip(full, times[1:]))
        rows.append((name, f"{1000 * statistics.median(times[1:]):.0f} ms", f"{ratio:.2f} x"))
    show(["a step of 32 messages", "time", "as fast as full"], rows)
    say("What each improvement brought, here and on a GPU, is in data/speed.md.")


def mistakes(folder):
    section("What it gets wrong")
    model, tokenizer, record = load_finetuned(folder)
    messages = split(load_messages(), seed=0).validation
    texts, labels = [m.text for m in messages], [m.label for m in messages]
    encoded = encode_messages(tokenizer, texts, labels, model.config.context_length)
    spam = classify(model, encoded)[:, 1]  # (messages,)
    wrong = [i for i in range(len(labels)) if (spam[i] > 0.5) != labels[i]]
    wrong.sort(key=lambda i: -abs(float(spam[i]) - 0.5))
    say(
        f"The LoRA model read back from its folder: {len(wrong)} of {len(labels)} validation "
        "messages wrong. Those it is surest of (the test messages are left unread):"
    )
    show(
        ["is", "P(spam)", "message"],
        [
            (record.labels[labels[i]], f"{spam[i]:.3f}", " ".join(texts[i].split())[:64])
            for i in wrong[:4]
        ],
    )


def learning_rates(settings, options):
    section("How the learning rates were chosen")
    if options.search:
        # All messages and epochs, as in a comparison; --limit and --epochs do not count.
        search_learning_rates(
            WIDER,
            list(range(options.seed, options.seed + options.seeds)),
            FinetuneSettings(weights=options.weights),
            work=options.out / "learning_rate_runs",
            out=RATES,
            device=options.device,
        )
    if not RATES.exists():
        say("data/learning_rates_wider.json is not there yet; --search makes it.")
        return
    result = read_json(RATES)
    searched = result["settings"]
    say(
        f"Every rate on {len(result['seeds'])} splits, {searched['epochs']} epochs, F1 and loss "
        "on the validation messages, mean and standard deviation. The highest mean F1 wins, then "
        "the lowest loss; what a run takes where nothing is said is marked:"
    )
    rows = []
    for method, found in result["methods"].items():
        for row in found["grid"]:
            rate = row["learning_rate"]
            marks = {"highest F1": found["chosen"], "taken": LEARNING_RATES[method]}
            mark = ", ".join(word for word, marked in marks.items() if rate == marked)
            deviation = row["validation_f1_std"] or 0
            f1 = f"{100 * row['validation_f1_mean']:.1f} ± {100 * deviation:.1f}"
            rows.append((method, f"{rate:g}", f1, f"{row['validation_loss_mean']:.4f}", mark))
    show(["method", "rate", "F1 (%)", "loss", ""], rows)
    say(
        "Full fine-tuning takes a step less than its highest F1: the two are apart by less than "
        "one message, the loss is lower there, and a default keeps its distance from the grid's "
        "edge."
    )
    save(search_figure(result), options.out, "ch08_learning_rates.png")


if __name__ == "__main__":
    lesson(teach, __doc__, options)
