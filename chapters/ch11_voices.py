"""Chapter 11. Voices: LoRA that writes, and two voices that make a classifier

So far the head has read and LoRA has helped it. But the base is a language model: what it does by
itself is to say which token comes next. So let LoRA change that. Trained on messages alone, with
the loss that pretraining has, an adapter makes the base write as the messages do: a voice. How well
it does so can be measured without a label, in bits a byte of messages that it has not read.

You will see a voice learn, the same beginning continued by the base and by two voices, a text that
changes its voice in the middle, and a classifier that nobody trained: which of the two voices would
rather have written the message? Bayes' rule answers.

Source: Biderman et al. 2024, "LoRA Learns Less and Forgets Less"; Hu et al. 2021, section 4.
"""

import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # works without installing, too
import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch
from lesson import lesson, listing, patience, save, say, section, show, try_next, weights_option
from lora_plots import evidence_figure

from llm.cli.terminal import one_line
from llm.data.documents import load_texts, masked
from llm.inference.adapters import Adapters
from llm.inference.bayes import classify_by_voices, log_likelihoods, log_prior
from llm.inference.voices import write, write_in_turns
from llm.studies.voice_measures import measure_base
from llm.training.finetuning import finetune
from llm.training.settings import FinetuneSettings
from llm.utils.paths import VOICES
from llm.utils.program import positive

MESSAGES = [
    "Congratulations! You have won a cash prize. Call now to claim",
    "Ok see you at home then, i will bring the bread",
    "Free entry this week, text WIN to stop paying",
    "Sorry i am late, the bus never came",
]
COUNTS = (3958, 519)  # ham and spam that the voices were trained on


def options(parser):
    weights_option(parser)
    parser.add_argument("--limit", type=positive, default=100, help="messages that a voice reads")
    parser.add_argument("--epochs", type=positive, default=2, help="how often it reads them")


def teach(options):
    a_voice_learns(options)
    adapters = Adapters.load(VOICES)
    side_by_side(adapters, options.seed)
    a_classifier_for_free(adapters, options.out)
    try_next(
        "python -m llm finetune --task writing --text my.txt --out runs/mine, with a text of your "
        "own, blank lines between its pieces; then generate --from runs/mine and a beginning.",
        "generate with --temperature 0.3 and with 1.2: what gets better, what gets worse?",
        "--limit 363 --epochs 4 here: all the training messages. And --rank 1 or 64 with "
        "python -m llm compare --task writing --text spam --ranks 1,64: what does rank buy, and "
        "what does it cost in English?",
    )


def a_voice_learns(options):
    section("A voice learns")
    settings = FinetuneSettings(
        task="writing",
        text=["spam"],
        mask_digits=True,
        weights=options.weights,
        limit=options.limit,
        epochs=options.epochs,
        seed=options.seed,
    )
    say(
        f"{options.limit} spam messages with 0 for every digit, epochs: {options.epochs}, LoRA "
        "of rank 8. The loss counts each token of each message and its end; no message sees "
        "another. Bits a byte of spam that it has not read:"
    )
    patience("training and measuring", 6 + 0.08 * options.limit * options.epochs)
    with tempfile.TemporaryDirectory() as folder:
        run = finetune(settings, folder, device="cpu", quiet=False, report=False).results
    test = unread(settings)
    before = measure_base(settings, {"test": test}, "cpu")["test"]["bits_per_byte"]
    after = run["test"]["bits_per_byte"]
    show(
        ["", "bits a byte", "trained numbers"],
        [("base", before, 0), ("voice", after, run["trainable_parameters"])],
    )
    say("A compressor built on the voice would need that much: 8 bits a byte is no compression.")


def unread(settings) -> list[str]:
    """The test messages of a run."""
    return load_texts(settings.text, split_seed=settings.split_seed, mask_digits=True).test


def side_by_side(adapters, seed):
    section("One base, two voices")
    say("The two voices that come with the project, and the base, continue the same beginning:")
    rows = []
    for beginning in ("I will", "You have"):
        for name in (None, "ham", "spam"):
            adapters.use(name)
            text = write(adapters, beginning, 24, temperature=0.7, seed=seed)
            rows.append((name or "base", one_line(beginning + text)[:70]))
    show(["voice", "text"], rows)
    first, second = write_in_turns(
        adapters, "Hi", [("ham", 12), ("spam", 16)], temperature=0.7, seed=seed
    )
    say("And in turns, ham to the bar and spam behind it:")
    listing(one_line(f"Hi{first} | {second}"))
    adapters.use(None)


def a_classifier_for_free(adapters, out):
    section("A classifier for free")
    say(
        "p(spam | message) ~ p(message | spam voice) p(spam): no head, and nothing was trained to "
        "tell apart. Digits are masked, as the voices read them; the prior is each label's share."
    )
    texts = [masked(text) for text in MESSAGES]
    likely = log_likelihoods(adapters, texts, ("ham", "spam"))
    chances = classify_by_voices(adapters, texts, ("ham", "spam"), log_prior(COUNTS))[:, 1]
    show(
        ["message", "ln p, ham", "ln p, spam", "P(spam)"],
        [
            (text[:44], f"{ham:.1f}", f"{spam:.1f}", f"{chance:.3f}")
            for text, (ham, spam), chance in zip(texts, likely.tolist(), chances.tolist())
        ],
    )
    words, evidence = token_evidence(adapters, texts[0])
    total = float(likely[0, 1] - likely[0, 0])
    say("The difference is a sum over the tokens, so each can be asked what it added:")
    listing(
        f"sum over the tokens       {sum(evidence):.3f}",
        f"difference of the texts   {total:.3f}",
    )
    save(evidence_figure(words, evidence), out, "ch11_voices.png")


@torch.no_grad()
def token_evidence(adapters, text) -> tuple[list[str], list[float]]:
    """The tokens of a text and its end, and how much more likely each is in the spam voice."""
    tokenizer = adapters.tokenizer
    ids = tokenizer.encode(text)
    row = torch.tensor([[tokenizer.eot_id, *ids, tokenizer.eot_id]])  # (1, tokens)
    found = {}
    for name in ("ham", "spam"):
        adapters.use(name)
        scores = adapters.model.body(row[:, :-1]).log_softmax(-1)  # (1, tokens - 1, vocab_size)
        found[name] = scores.gather(-1, row[:, 1:, None])[0, :, 0]  # (tokens - 1,)
    adapters.use(None)
    words = [tokenizer.decode([token]) for token in ids]
    return [*words, "(end)"], (found["spam"] - found["ham"]).tolist()


if __name__ == "__main__":
    lesson(teach, __doc__, options)
