"""Chapter 2. Data sampling: what a model is shown, in which order, and what is padded

Training shows a model small samples, again and again. For pretraining a sample is a *window*: a
row of tokens from anywhere in a long text, and as the answer the same tokens moved on by one. For
telling spam from ham it is a whole message with its label, and messages differ in length, while a
tensor is a rectangle: short ones are padded, and whatever is padded is computed for nothing.

You will see windows and their answers, the splits of the messages after copies are removed, how
much of a batch is padding in three ways of batching, and that leaving the padding out changes
nothing but the time.

Source: windows: Radford et al. 2018, section 3.1. That copies must go before the split: Lee et al.
2022, "Deduplicating Training Data Makes Language Models Better", section 1.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # works without installing, too
import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch
from gpt2_plots import padding_figure
from lesson import lesson, listing, save, say, section, show, try_next

from llm.data.batching import (
    batch_indices,
    collate,
    encode_messages,
    sorted_batches,
    steps_per_epoch,
)
from llm.data.corpus import Corpus
from llm.data.messages import load_messages, normalised
from llm.data.splits import describe, split
from llm.data.tokenizer import END_OF_TEXT, mini_tokenizer
from llm.formats.base import load_base
from llm.model.classifier import GPTClassifier
from llm.utils.files import write_text

BATCH = 32  # messages a step, as in fine-tuning


def teach(options):
    tokenizer = mini_tokenizer()
    train = messages(options.seed)
    windows(train, tokenizer, options.seed)
    texts, labels = [m.text for m in train], [m.label for m in train]
    encoded = encode_messages(tokenizer, texts, labels, context_length=512)
    order(encoded, options.seed)
    padding(encoded, options)
    packed(encoded, options.seed)
    try_next(
        "in padding, batches of 8 in place of 32: less padding, because the longest of 8 is "
        "shorter than the longest of 32; and of 128: more.",
        "sort for training as well? The padding all but goes, but a batch then holds messages of "
        "one length, and spam is longer than ham: each step would see mostly one class.",
        "--seed 1: other messages in the three parts, the same shares.",
    )


def messages(seed):
    section("The messages")
    collection = load_messages()
    splits = split(collection, seed)
    listing(*describe(collection, splits).splitlines())
    say(
        "Copies go before the split. A campaign changes the telephone number or the prize and "
        "sends the rest again, so two messages are copies when they agree in this form:"
    )
    show(
        ["message", "compared as"],
        [(text, normalised(text)) for text in ("WIN £1000! Call 0800 123", "Win 500. Call 09061!")],
    )
    say(
        "Split first, and one half of a pair of copies may be trained on while the other is "
        "tested: the test then measures memory."
    )
    return splits.train


def windows(train, tokenizer, seed):
    section("Windows, for pretraining")
    say(
        "The training messages end to end, an end-of-text token after each, in one file that is "
        "mapped into memory. A window begins anywhere; the answer to each token is the next one. "
        "Two windows of 9 tokens:"
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "messages.txt"
        write_text(file, f"\n{END_OF_TEXT}\n".join(message.text for message in train))
        corpus = Corpus.build([file], tokenizer, Path(folder) / "corpus")
        drawn = corpus.windows(length=9, count=2, key=[seed, 0])  # (2, 9)
        again = corpus.windows(length=9, count=2, key=[seed, 0])
        n_tokens, n_bytes = corpus.n_tokens, corpus.n_bytes
        del corpus  # lets go of the mapped files, which Windows would not delete otherwise
    for window in drawn.tolist():
        tokens = [tokenizer.token(index) for index in window]
        listing("in      " + " ".join(tokens[:-1]), "answer  " + " ".join(tokens[1:]))
    assert torch.equal(drawn, again)
    say(
        f"{n_tokens:,} tokens from {n_bytes:,} bytes. The seed and the number of the step decide "
        "the draw alone, so a run that was killed goes on with the very windows it would have seen."
    )


def order(encoded, seed):
    section("Messages, for fine-tuning")
    steps = steps_per_epoch(len(encoded), BATCH)
    say(
        f"{len(encoded):,} messages make {steps} batches of {BATCH} an epoch, every message once, "
        "in a new order every epoch. The first messages of some steps, and the spam among them:"
    )
    rows = []
    for step in (0, 1, steps - 1, steps):
        indices = batch_indices(len(encoded), BATCH, step, seed)
        spam = sum(encoded.labels[index] for index in indices)
        first = " ".join(f"{index:4}" for index in indices[:6])
        rows.append((step, step // steps, len(indices), spam, first + " ..."))
    show(["step", "epoch", "messages", "spam", "which"], rows)
    say(
        "The last batch of an epoch is smaller. On average a batch has 3 or 4 spam messages; to "
        "train on as much spam as ham, there is --balanced."
    )


def padding(encoded, options):
    section("How much of a batch is padding")
    lengths = [len(ids) for ids in encoded.ids]
    steps = range(steps_per_epoch(len(encoded), BATCH))
    random = [batch_indices(len(encoded), BATCH, step, options.seed) for step in steps]
    by_length = list(sorted_batches(lengths, token_budget=2048))
    widest = max(lengths)
    real = sum(lengths)
    computed = {
        "every message to the longest of all": widest * len(lengths),
        "each random batch to its longest": computed_tokens(random, lengths),
        "sorted by length, at most 2,048 tokens": computed_tokens(by_length, lengths),
        "packed: no rectangle at all": real,
    }
    show(
        ["padded", "tokens computed", "of them padding (%)", "times the real ones"],
        [
            (name, count, f"{100 * (1 - real / count):.1f}", f"{count / real:.2f}")
            for name, count in computed.items()
        ],
    )
    say(
        "Predictions do not care for the order, so they are made in sorted batches. Training "
        "needs a random order, so on a CPU its batches are packed: messages end to end, with "
        "their lengths beside them, and only attention has to look at the lengths."
    )
    middle = by_length[len(by_length) // 2]
    batches = {
        "a random batch": [lengths[index] for index in random[0]],
        "sorted by length": [lengths[index] for index in middle[:BATCH]],
    }
    save(padding_figure(lengths, batches, computed), options.out, "ch02_data_sampling.png")


def computed_tokens(batches, lengths):
    return sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)


def packed(encoded, seed):
    section("Packed and padded give the same answer")
    torch.manual_seed(seed)
    body = load_base("mini", "random", seed)
    model = GPTClassifier(body.config, body=body).eval()
    batch = collate(encoded, batch_indices(len(encoded), BATCH, 0, seed))
    answers, rows = [], []
    with torch.no_grad():
        for name, layout in (("padded", False), ("packed", True)):
            model.packed = layout
            seconds = []
            for _ in range(3):
                started = time.perf_counter()
                answers.append(model(batch.ids, batch.lengths))
                seconds.append(time.perf_counter() - started)
            tokens = int(batch.lengths.sum()) if layout else batch.ids.numel()
            rows.append((name, tokens, round(1000 * min(seconds), 1)))
    show(["layout", "tokens", "time of a forward pass (ms)"], rows)
    difference = (answers[0] - answers[-1]).abs().max()
    listing(f"largest difference of the class scores: {difference:.1e}")


if __name__ == "__main__":
    lesson(teach, __doc__)
