"""Chapter 6. Pretraining and loading weights: where the knowledge comes from

A language model learns by guessing the next token of ordinary text, millions of times. Nobody has
to label anything; the text is its own answer. What it learns on the way, words, grammar, who says
what to whom, is what LoRA builds on in chapter 7. Pretraining is the costly part, so it is done
once and its weights are kept in a file.

You will see a tiny model's loss fall within seconds, how good several models are in bits per byte,
a measure that compressors share, the curve of the real run that made `mini`, how GPT-2's published
weights are laid out, what text comes out, and whether pretraining pays: learning curves from
learned and from random weights. `--full` measures those anew (hours on two cores, minutes on a
GPU).

Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training",
section 3.1; bits and compression: Shannon 1951, "Prediction and Entropy of Printed English".
"""

import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # works without installing, too
import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch
from gpt2_plots import tiny_pretraining_figure
from lesson import lesson, listing, patience, save, say, section, show, try_next, weights_option

from llm.data.corpus import Corpus, bits_per_byte
from llm.data.messages import load_messages
from llm.data.splits import split
from llm.data.tokenizer import END_OF_TEXT, mini_tokenizer
from llm.figures.studies import learning_curve_figure, pretraining_figure
from llm.formats.base import load_base
from llm.formats.transformers import is_transposed, name_table
from llm.inference.generate import generate
from llm.inference.text_bits import unigram_bits_per_byte, xz_bits_per_byte
from llm.model.config import PRESETS, GPTConfig
from llm.model.parameters import fingerprint, parameter_counts
from llm.studies.learning_curve import learning_curve
from llm.training.pretraining import pretrain
from llm.training.settings import DEVICES, FinetuneSettings, PretrainSettings
from llm.utils.files import read_json, write_text
from llm.utils.paths import DATA
from llm.utils.program import positive

TINY = GPTConfig(vocab_size=8192, context_length=64, emb_dim=64, n_heads=4, n_layers=2)
LOG, CURVE = DATA / "mini" / "log.json", DATA / "learning_curve.json"


def options(parser):
    weights_option(parser)
    parser.add_argument("--steps", type=positive, default=80, help="of the tiny pretraining")
    parser.add_argument("--full", action="store_true", help="measure the learning curves anew")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="for --full")
    parser.add_argument("--seeds", type=positive, default=10, help="for --full")


def teach(options):
    tokenizer = mini_tokenizer()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        files = write_messages(Path(folder), options.seed)
        history = tiny_pretraining(files, Path(folder) / "tiny", options)
        bits(files, Path(folder) / "tiny", tokenizer, options)
    the_real_run(options.out)
    loading(options)
    speaking(tokenizer, options)
    does_it_pay(options)
    save(tiny_pretraining_figure(history), options.out, "ch06_tiny.png")
    try_next(
        "--steps 400: the tiny model comes to 2.8 bits per byte and leaves mini behind. Practice "
        "on the very kind of text beats a larger model's practice on another kind.",
        "--steps 400 and, in tiny_pretraining, the optimizer 'muon' with weight_decay=0.2, as in "
        "mini's own run: 2.67 bits per byte where AdamW comes to 2.79.",
        "in speaking, temperature 0: always the likeliest token. The text soon goes in circles.",
        "PretrainSettings(lr=0.1): the loss sticks near 6.7, about what token frequencies alone "
        "give. At 1e-5 it hardly moves in so few steps.",
    )


def write_messages(folder: Path, seed: int) -> dict[str, Path]:
    """Messages as text files of many documents: of both parts, and of validation by label."""
    train, validation, _ = split(load_messages(), seed)
    parts = {
        "train": train,
        "validation": validation,
        "ham": [message for message in validation if message.label == 0],
        "spam": [message for message in validation if message.label == 1],
    }
    files = {name: folder / f"{name}.txt" for name in parts}
    for name, messages in parts.items():
        texts = (f"{message.text}\n{END_OF_TEXT}\n" for message in messages)
        write_text(files[name], "".join(texts))
    return files


def tiny_pretraining(files, out, options) -> dict:
    section("Pretraining, very small")
    settings = PretrainSettings(
        steps=options.steps,
        batch_size=16,
        lr=5e-3,
        optimizer="adamw",  # the usual one; mini's was Muon, see llm/training/muon.py
        weight_decay=0.1,
        warmup_share=0.1,
        evaluate_every=max(1, options.steps // 2),
        log_every=1,
        seed=options.seed,
    )
    patience("training", 0.15 * options.steps)
    history = pretrain([files["train"]], out, settings, TINY, [files["validation"]], device="cpu")
    say(
        f"{TINY.n_layers} blocks of width {TINY.emb_dim}, {history['parameters']:,} parameters, "
        f"{options.steps} steps of 16 windows of {TINY.context_length} tokens, from the training "
        "messages. The loss is in nats, the unit of the natural logarithm (1.44 bits): guessing "
        "blindly among 8,192 tokens costs ln(8192) = 9.01 of them."
    )
    curve = history["curve"]
    chosen = sorted({0, *(len(curve) * part // 5 for part in range(1, 5)), len(curve) - 1})
    show(
        ["step", "loss (nats a token)", "learning rate"],
        [(curve[i]["step"], f"{curve[i]['loss']:.3f}", f"{curve[i]['lr']:.1e}") for i in chosen],
    )
    return history


def bits(files, tiny, tokenizer, options):
    section("Bits per byte")
    say(
        "Who predicts well can compress well: a symbol of probability p takes log2(1/p) bits. Per "
        "byte of the text, vocabularies and compressors can be compared. On the validation "
        "messages, which none of these has seen:"
    )
    patience("measuring", 10)
    train = Corpus(tiny / "corpus" / "train")
    validation = Corpus(tiny / "corpus" / "validation")
    text = files["validation"].read_text(encoding="utf-8").replace(f"{END_OF_TEXT}\n", "")
    models = {
        "the tiny model above": load_base(tiny),
        "mini, random weights": load_base("mini", "random", options.seed),
    }
    if options.weights == "pretrained":
        models["mini, pretrained"] = load_base("mini")
    rows = [
        ("as it is", 8.0),
        ("xz -9, the compressor", xz_bits_per_byte(text.encode())),
        ("how frequent each token is", unigram_bits_per_byte(train, validation)),
    ]
    for name, model in models.items():
        rows.append((name, bits_per_byte(model.eval(), validation)["bits_per_byte"]))
    show(["", "bits per byte"], [(name, f"{value:.2f}") for name, value in rows])
    say(
        "A few hundred messages are little for xz to get going. The tiny model has practised on "
        "messages of this very kind; mini was never shown one, and has to make do with English."
    )
    parts = {name: Corpus.build([files[name]], tokenizer, tiny / name) for name in ("ham", "spam")}
    found = {name: bits_per_byte(model, part)["bits_per_byte"] for name, part in parts.items()}
    say(
        f"The last model of the table takes {found['ham']:.2f} bits per byte for ham and "
        f"{found['spam']:.2f} for spam. Nobody has told it about spam yet; a pretrained model is "
        "more surprised by it. That is the kind of knowledge that fine-tuning only has to bring "
        "to light."
    )
    del (
        train,
        validation,
        parts,
    )  # lets go of the mapped files, which Windows would not delete otherwise


def the_real_run(out):
    section("The run that made mini")
    if not LOG.exists():
        say("data/mini/log.json is not there; this part is left out.")
        return
    log = read_json(LOG)
    measured = log["validation"]
    listing(
        f"parameters       {log['parameters']:>15,}",
        f"tokens seen      {log['tokens_seen']:>15,}",
        f"tokens a second  {log['tokens_per_second']:>15,.0f}",
        f"training         {log['train_seconds']:>15,.0f} s",
        f"validation       {measured['bits_per_byte']:>15.3f} bits per byte",
    )
    save(pretraining_figure(log), out, "ch06_pretraining.png")


def loading(options):
    section("Loading weights")
    model = load_base("mini", options.weights, options.seed)
    say(
        "The model is built without numbers, on the meta device, its memory is reserved, and each "
        "tensor is copied into place from the memory-mapped file: the weights are never held "
        "twice. Every name and shape has to fit, or nothing is loaded."
    )
    listing(
        f"mini, {options.weights}: {parameter_counts(model)['total']:,} parameters",
        f"fingerprint  {fingerprint(model)[:16]}..., which every adapter remembers",
    )
    say(
        "GPT-2's published files fuse query, key and value into one matrix, and store Linear "
        "weights transposed. Block 0 of `python -m llm download gpt2`, and where it goes:"
    )
    table = name_table(PRESETS["gpt2"])
    rows = [
        (theirs, "transposed" if is_transposed(theirs) else "", ", ".join(ours))
        for theirs, ours in table.items()
        if theirs.startswith("h.0.") and theirs.endswith("weight")
    ]
    short = [(a, b, c.replace("trf_blocks.0.", "").replace(".weight", "")) for a, b, c in rows]
    show(["in the file", "", "in trf_blocks.0"], short)


def speaking(tokenizer, options):
    section("What it says")
    starts = ("random", "pretrained") if options.weights == "pretrained" else ("random",)
    for start in starts:
        model = load_base("mini", start, options.seed).eval()
        for prompt in ("Once upon a time", "I will call you"):
            ids = torch.tensor([tokenizer.encode(prompt)])  # (1, tokens)
            ids = generate(
                model,
                ids,
                30,
                temperature=0.8,
                top_p=0.95,
                stop=tokenizer.eot_id,
                seed=options.seed,
            )
            new = [index for index in ids[0].tolist() if index != tokenizer.eot_id]
            say(f"{start}: {tokenizer.decode(new)}")


def does_it_pay(options):
    section("Does pretraining pay?")
    if options.full:
        seeds = list(range(options.seed, options.seed + options.seeds))
        work = options.out / "learning_curve_runs"
        learning_curve(FinetuneSettings(), work, CURVE, seeds=seeds, device=options.device)
    if not CURVE.exists():
        say("data/learning_curve.json is not there yet; --full makes it.")
        return
    result = read_json(CURVE)
    say(
        "Fine-tuned on few and on many messages, from pretrained and from random weights, beside "
        "counted words (TF-IDF with logistic regression). F1 for spam on the test messages, 100 "
        "when all of it is found and nothing else is called spam; mean and standard deviation of "
        f"{len(result['seeds'])} seeds (fewer from random weights), in percent:"
    )
    sizes = sorted({row["messages"] for row in result["summary"]})
    lines: dict[tuple, dict[int, str]] = {}
    for row in result["summary"]:
        spread = f" ± {100 * row['f1_std']:.0f}" if row["f1_std"] is not None else ""
        cell = f"{100 * row['f1_mean']:.0f}{spread}"
        lines.setdefault((row["method"], row["weights"] or ""), {})[row["messages"]] = cell
    show(
        ["method", "weights", *map(str, sizes)],
        [
            (m.replace("tfidf_logistic_regression", "TF-IDF"), w, *(cells[s] for s in sizes))
            for (m, w), cells in lines.items()
        ],
    )
    save(learning_curve_figure(result), options.out, "ch06_learning_curve.png")


if __name__ == "__main__":
    lesson(teach, __doc__, options)
