"""How well a text is predicted, in bits per byte: by a base, by a compressor, by token counts.

Who predicts well can compress well: a symbol of probability p takes log2(1/p) bits (Shannon 1951,
"Prediction and Entropy of Printed English"). Per byte of the text, all three can be compared.
"""

import lzma
import tempfile
from pathlib import Path

import numpy as np

from llm.data.corpus import Corpus, bits_per_byte, read_documents
from llm.formats.base import load_base, load_tokenizer
from llm.model.parameters import fingerprint
from llm.utils.files import sha256_of_file


def unigram_bits_per_byte(train: Corpus, validation: Corpus) -> float:
    """A model that knows only how frequent each token is in the training text: the floor to beat.

    Counts are raised by one, so that a token never seen still has a probability.
    """
    size = 1 + max(int(train.tokens.max()), int(validation.tokens.max()))
    counts = np.bincount(train.tokens, minlength=size) + 1
    bits = -np.log2(counts / counts.sum())
    return float(bits[validation.tokens[1:]].sum() / validation.n_bytes)


def xz_bits_per_byte(text: bytes) -> float:
    """What `xz -9` needs for a text."""
    return 8 * len(lzma.compress(text, preset=9)) / len(text)


def measure_text(
    model: str | Path, text_files: list, train_files: list = (), device: str = "cpu"
) -> dict:
    """Bits per byte of a text: of a base in float32, of `xz -9`, and of token frequencies.

    Args:
        model: a base, as `llm.formats.base.load_base` takes it.
        text_files: documents separated by a line `<|endoftext|>`; the separators are not measured.
        train_files: where the token frequencies are counted; without any they are left out.

    Returns:
        what was measured, on what, with the SHA-256 of each file and the base's fingerprint.

    Raises:
        InputError: no such base, or files that cannot be read.
    """
    base = load_base(model).to(device).eval()
    tokenizer = load_tokenizer(model, base.config.vocab_size)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        text = Corpus.build(text_files, tokenizer, Path(folder) / "text")
        of_base = bits_per_byte(base, text)
        measured = {
            "base": of_base["bits_per_byte"],
            "xz_9": xz_bits_per_byte("".join(read_documents(text_files)).encode("utf-8")),
        }
        if train_files:
            train = Corpus.build(train_files, tokenizer, Path(folder) / "train")
            measured["token_frequencies"] = unigram_bits_per_byte(train, text)
            del train  # lets go of the mapped files, which Windows would not delete otherwise
        counts = {"documents": text.n_documents, "tokens": text.n_tokens, "bytes": text.n_bytes}
        del text
    return {
        "model": str(model),
        "fingerprint": fingerprint(base),
        "precision": "fp32",
        "text": {**counts, "sha256": {Path(f).name: sha256_of_file(f) for f in text_files}},
        "train": {Path(file).name: sha256_of_file(file) for file in train_files},
        "nats_per_token": of_base["loss"],
        "bits_per_byte": measured,
    }
