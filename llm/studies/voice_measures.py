"""What a model that writes is measured on beside its own unseen texts: what it may have forgotten.

The other label's messages are close to what a voice was trained on, everyday English is far.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from llm.data.documents import encode_documents, load_texts, masked, read_documents_of
from llm.data.tokenizer import Tokenizer
from llm.data.tsv import LABELS
from llm.formats.base import load_base, load_tokenizer
from llm.inference.log_probabilities import bits_per_byte_metrics, log_probabilities
from llm.model.gpt import GPTModel
from llm.training.settings import FinetuneSettings
from llm.utils.paths import DATA

ENGLISH = DATA / "english.txt"
OTHERS = 300  # messages of the other label that are measured, at most


def unseen_texts(settings: FinetuneSettings, test: Sequence[str]) -> dict[str, list[str]]:
    """What is measured: `test`, `other` where the text is one label's messages, `english`.

    Args:
        settings: of the run; digits are masked everywhere if it masks them.
        test: the run's test documents.
    """
    read = masked if settings.mask_digits else str
    found = {"test": list(test)}
    others = [label for label in LABELS if label not in settings.text]
    if len(others) == 1:
        there = replace(settings, text=others, limit=None)
        found["other"] = [read(text) for text in texts_of(there).test[:OTHERS]]
    if ENGLISH.exists():
        found["english"] = [read(text) for text in read_documents_of(ENGLISH)[0]]
    return found


def texts_of(settings: FinetuneSettings):
    """The documents of a run: `llm.data.documents.Texts`."""
    return load_texts(
        settings.text,
        settings.data,
        settings.split_seed,
        settings.variants_together,
        settings.limit,
        mask_digits=settings.mask_digits,
    )


def measure(
    body: GPTModel, tokenizer: Tokenizer, unseen: dict[str, list[str]]
) -> tuple[dict[str, dict], torch.Tensor]:
    """Bits a byte of each set of texts.

    Returns:
        ({name: `bits_per_byte_metrics`}, the bits of each document of `test`, (documents,))
    """
    found, bits = {}, torch.empty(0)
    for name, texts in unseen.items():
        documents = encode_documents(tokenizer, texts, body.config.context_length)
        log_p = log_probabilities(body, documents)
        found[name] = bits_per_byte_metrics(log_p, documents.n_bytes)
        if name == "test":
            bits = -log_p / torch.tensor(2.0).log()
    return found, bits


def measure_base(
    settings: FinetuneSettings, unseen: dict[str, list[str]], device: str
) -> dict[str, dict]:
    """The same of the base that a run starts from."""
    base = load_base(settings.model, settings.weights, settings.seed, device)
    return measure(base, load_tokenizer(settings.model, base.config.vocab_size), unseen)[0]
