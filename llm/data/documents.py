"""Documents to learn to write from: the messages of one label, or a text of the reader's own.

A document begins after the end-of-text token and ends with it, as in pretraining, so a model
learns how a text begins and when it is over. One that is longer than the context is cut into
pieces. Each begins with the last token of the piece before, so that every token is predicted once.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from llm.data.batching import Encoded
from llm.data.corpus import OPENERS
from llm.data.messages import load_messages
from llm.data.splits import part_sizes, split
from llm.data.tokenizer import END_OF_TEXT, Tokenizer
from llm.data.tsv import LABELS
from llm.utils.errors import InputError, reason

MAX_BYTES = 256 * 2**20  # of a text file, unpacked
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Texts:
    """Documents in three parts that share none, and an account of where they come from."""

    train: list[str]
    validation: list[str]
    test: list[str]
    record: dict  # the `data` object of run.json

    def report(self) -> str:
        """What was read and split, for people."""
        about = self.record
        lines = [f"{about['documents']:,} documents of {about['source']}"]
        if about["duplicates_removed"]:
            lines.append(f"{about['duplicates_removed']:,} copies removed")
        return "\n".join(lines + [f"{part:<10} {len(getattr(self, part)):>6,}" for part in PARTS])


@dataclass(frozen=True)
class EncodedDocuments:
    """Documents as token ids, in pieces that fit into the context."""

    pieces: Encoded  # of at least two tokens each: every one but the first is predicted
    document: list[int]  # the document that each piece is of
    n_bytes: list[int]  # of each document, in UTF-8

    def __len__(self) -> int:
        return len(self.n_bytes)


def load_texts(
    text: Sequence[str],
    data: str | Path | None = None,
    split_seed: int = 0,
    variants_together: bool = True,
    limit: int | None = None,
    all_documents: bool = False,
    mask_digits: bool = False,
) -> Texts:
    """Training, validation and test documents: 70, 10 and 20 %.

    Args:
        text: "ham" or "spam" (or both) for the messages of a label, split as in telling them
            apart (`llm.data.splits.split`); or text files, see `read_documents_of`.
        data: the messages' source, as `llm.data.messages.load_task` takes it.
        split_seed: of the split.
        variants_together: of messages, as in `split`.
        limit: at most this many training documents, drawn by the split's seed; with the same
            seed the smaller sets are parts of the larger ones.
        all_documents: train on all of them, to use the model and not to measure it.
        mask_digits: write 0 for every digit, in all parts: what is never read is never given out.

    Raises:
        InputError: a file that cannot be read or holds no text, fewer than three documents.
    """
    if set(text) <= set(LABELS):
        parts, record = _of_messages(text, data, split_seed, variants_together)
    elif set(text) & set(LABELS):
        raise InputError(
            f"{' and '.join(LABELS)} are the collection's messages; give them or files, not both "
            f"(a file of that name is ./{LABELS[0]})",
            settings=("text",),
        )
    elif data is not None:
        raise InputError(
            "data is where messages come from, and the text is a file; give one of the two",
            settings=("data", "text"),
        )
    else:
        parts, record = _of_files(text, split_seed, all_documents)
    if all_documents:
        parts = ([document for part in parts for document in part], [], [])
    if limit is not None and limit < len(parts[0]):
        chosen = Random(f"limit {split_seed}").sample(range(len(parts[0])), len(parts[0]))[:limit]
        parts = ([parts[0][place] for place in sorted(chosen)], *parts[1:])
    if mask_digits:
        parts = tuple([masked(document) for document in part] for part in parts)
    record |= {"digits_masked": mask_digits}
    record |= {name: len(part) for name, part in zip(PARTS, parts)}
    return Texts(*parts, record)


def masked(text: str) -> str:
    """A text with 0 for every digit, of any script.

    >>> masked("Call 0800 123!")
    'Call 0000 000!'
    """
    return re.sub(r"\d", "0", text)


def read_documents_of(path: str | Path) -> tuple[list[str], str]:
    """The documents of a UTF-8 text file (`.xz`, `.gz` and `.bz2` are unpacked), and its SHA-256.

    A file in which `<|endoftext|>` stands is cut there and nowhere else; any other at its blank
    lines. White space around a document goes.

    Raises:
        InputError: the file cannot be read, is not UTF-8 text, or holds none.
    """
    path = Path(path)
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except Exception as error:  # each way of packing has its own family of errors
        raise InputError(
            f"cannot read the text file {path}: {reason(error)}; the text is "
            f"{', '.join(LABELS)} or a file"
        ) from None
    if len(content) > MAX_BYTES:
        raise InputError(
            f"{path} holds more than {MAX_BYTES >> 20} MB; make a base of so much text",
            command="pretrain",
        )
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from None
    if "\0" in text:
        raise InputError(f"{path} holds zero bytes, so it is no text; give a text file")
    cut = text.split(END_OF_TEXT) if END_OF_TEXT in text else re.split(r"\n[^\S\n]*\n", text)
    documents = [document.strip() for document in cut if document.strip()]
    if not documents:
        raise InputError(f"{path} holds no text; give a file with some")
    return documents, hashlib.sha256(content).hexdigest()


def encode_documents(
    tokenizer: Tokenizer, texts: Sequence[str], context_length: int
) -> EncodedDocuments:
    """Documents as token ids between two end-of-text tokens, cut where the context ends."""
    if context_length < 2:
        raise InputError("a context of one token leaves none to predict; choose another base")
    pieces, document = [], []
    for place, ids in enumerate(tokenizer.encode_batch(list(texts))):
        whole = [tokenizer.eot_id, *ids, tokenizer.eot_id]
        starts = range(0, len(whole) - 1, context_length - 1)
        pieces += [whole[start : start + context_length] for start in starts]
        document += [place] * len(starts)
    n_bytes = [len(text.encode("utf-8", "replace")) for text in texts]
    return EncodedDocuments(Encoded(pieces, [-1] * len(pieces), 0), document, n_bytes)


def _of_messages(text, data, split_seed, variants_together) -> tuple[tuple, dict]:
    """The messages of some labels: three lists of texts, and the record."""
    collection = load_messages(data)
    labels = [LABELS.index(name) for name in text]
    splits = split(collection, split_seed, variants_together=variants_together)
    parts = tuple([m.text for m in part if m.label in labels] for part in splits)
    record = {
        "source": f"{' and '.join(text)} messages in {collection.source}",
        "sha256": collection.sha256,
        "text": list(text),
        "documents": sum(map(len, parts)),
        "duplicates_removed": collection.duplicates_removed,
    }
    return parts, record


def _of_files(files, split_seed, all_documents) -> tuple[tuple, dict]:
    """The documents of text files, in random order: three lists, and the record."""
    found, hashes = [], {}
    for file in files:
        documents, hashes[Path(file).name] = read_documents_of(file)
        found += documents
    different = list(dict.fromkeys(found))
    names = ", ".join(hashes)
    if len(different) < 3 and not all_documents:
        raise InputError(
            f"{names}: {len(different)} documents are too few for training, validation and test, "
            f"which take one each at the least; put blank lines or {END_OF_TEXT} between them"
        )
    order = Random(split_seed).sample(different, len(different))
    validations, tests = part_sizes(len(order))
    parts = (order[tests + validations :], order[tests : tests + validations], order[:tests])
    record = {
        "source": names,
        "sha256": hashes,
        "text": list(hashes),
        "documents": len(order),
        "duplicates_removed": len(found) - len(different),
    }
    return parts, record
