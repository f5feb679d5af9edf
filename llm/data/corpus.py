"""A corpus as one memory-mapped file of token ids, random windows of it, and bits per byte.

Text files hold documents, each followed by a line `<|endoftext|>`. On disk the corpus is a folder:

* `tokens.bin`: every document's ids, then the end-of-text id, as 16-bit numbers, end to end;
* `starts.bin`: where each document begins, as 64-bit numbers;
* `corpus.json`: counts, and what they were made from.

Memory-mapped means that the operating system reads a page only when it is asked for: a corpus may
be larger than the memory, and opening it takes no time.
"""

import bz2
import gzip
import lzma
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch

from llm.data.text_speak import LONGEST, text_speak
from llm.data.tokenizer import END_OF_TEXT, Tokenizer
from llm.utils.errors import InputError, reason
from llm.utils.files import make_folder, read_json, sha256_of_file, whole_file, write_json

OPENERS = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
HELD_OUT_EVERY = 100  # of the documents, where no validation file is given


def documents_of(
    files: Sequence[str | Path], part: str = "all", with_text_speak: bool = False
) -> Iterator[str]:
    """All documents; or every hundredth ("validation"); or all the others ("train").

    With `with_text_speak` a respelled copy of each conversation follows after all of them.
    """
    for index, text in enumerate(read_documents(files)):
        held_out = index % HELD_OUT_EVERY == 0
        if part == "all" or (part == "validation") == held_out:
            yield text
    if with_text_speak:
        rng = random.Random(0)
        for text in documents_of(files, part):
            if len(text) < LONGEST:
                yield text_speak(text, rng)


def read_documents(files: Iterable[str | Path]) -> Iterator[str]:
    """The documents of text files, one at a time; `.xz`, `.gz` and `.bz2` are unpacked.

    Raises:
        InputError: a file that cannot be read, is damaged, or is not UTF-8.
    """
    for file in files:
        path = Path(file)
        opener = OPENERS.get(path.suffix, open)
        lines: list[str] = []
        try:
            with opener(path, "rt", encoding="utf-8", newline="") as stream:
                for line in stream:
                    if line.rstrip("\r\n") != END_OF_TEXT:
                        lines.append(line)
                        continue
                    yield from _document(lines)
                    lines = []
        except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError, ValueError) as error:
            raise InputError(f"cannot read the corpus file {path}: {reason(error)}") from None
        yield from _document(lines)


def _document(lines: list[str]) -> Iterator[str]:
    text = "".join(lines)
    if text.strip():
        yield text


class Corpus:
    """A corpus of token ids on disk, opened with `Corpus(folder)` and made with `Corpus.build`."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        about = read_json(self.folder / "corpus.json")
        try:
            self.n_tokens, self.n_documents = int(about["tokens"]), int(about["documents"])
            self.n_bytes, self.made_from = int(about["bytes"]), about["made_from"]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.folder / 'corpus.json'} does not describe a corpus ({error}); "
                "delete the folder and build it anew"
            ) from None
        self.tokens = self._map("tokens.bin", np.uint16, self.n_tokens)
        self.starts = self._map("starts.bin", np.int64, self.n_documents)

    def _map(self, name: str, dtype: type, length: int) -> np.memmap:
        path = self.folder / name
        wanted = length * np.dtype(dtype).itemsize
        if not path.exists() or path.stat().st_size != wanted:
            raise InputError(
                f"{path} is absent or not {wanted} bytes long; delete {self.folder} and build it "
                "anew"
            )
        return np.memmap(path, dtype=dtype, mode="r", shape=(length,))

    @classmethod
    def build(
        cls,
        files: Sequence[str | Path],
        tokenizer: Tokenizer,
        folder: str | Path,
        part: str = "all",
        with_text_speak: bool = False,
        quiet: bool = True,
    ) -> "Corpus":
        """Tokenize text files into `folder`, or open it if it was made from the same already.

        `part` and `with_text_speak` as in `documents_of`.

        Raises:
            InputError: unreadable or empty files, or a vocabulary too large for 16-bit numbers.
        """
        from tqdm import tqdm

        if tokenizer.vocab_size > 1 << 16:
            raise InputError(f"{tokenizer.vocab_size} tokens do not fit into 16-bit numbers")
        folder = make_folder(folder)
        made_from = {
            "part": part,
            "with_text_speak": with_text_speak,
            "vocabulary": tokenizer.sha256,
            "sources": [_source(file) for file in files],
        }
        if (folder / "corpus.json").exists():
            if read_json(folder / "corpus.json").get("made_from") == made_from:
                return cls(folder)
            (folder / "corpus.json").unlink()  # without it the folder does not count
        n_tokens, n_bytes, starts = 0, 0, []
        documents = tqdm(
            documents_of(files, part, with_text_speak),
            unit="document",
            leave=False,
            disable=True if quiet else None,
        )
        with whole_file(folder / "tokens.bin") as temporary, open(temporary, "wb") as out:
            for batch in _batches(documents, characters=1 << 22):
                n_bytes += sum(len(text.encode("utf-8", "replace")) for text in batch)
                for ids in tokenizer.encode_batch(batch):
                    starts.append(n_tokens)
                    n_tokens += len(ids) + 1
                    out.write(np.array([*ids, tokenizer.eot_id], dtype=np.uint16).tobytes())
            if not starts:
                raise InputError(f"no text in {', '.join(map(str, files))}")
        with whole_file(folder / "starts.bin") as temporary:
            temporary.write_bytes(np.array(starts, dtype=np.int64).tobytes())
        about = {
            "tokens": n_tokens,
            "documents": len(starts),
            "bytes": n_bytes,
            "made_from": made_from,
        }
        write_json(folder / "corpus.json", about)  # last
        return cls(folder)

    def windows(
        self,
        length: int,
        count: int,
        key: list[int],
        document_starts: float = 0.0,
        part: int = 0,
        parts: int = 1,
    ) -> torch.Tensor:
        """Random windows of the corpus.

        Args:
            length: tokens in a window.
            count: windows.
            key: numbers that decide the draw, for example (seed, step): the same key gives the
                same windows, so a resumed run needs to remember nothing.
            document_starts: share of the windows that begin where a document begins. Each
                document is as likely as any other, so short ones are seen more often than by
                their length; and the model learns what the start of a text looks like.
            part, parts: return every `parts`-th window alone, beginning with number `part`.

        Returns:
            (count / parts, length) token ids, int64.

        Raises:
            InputError: the corpus is shorter than one window.
        """
        if self.n_tokens < length:
            raise InputError(
                f"the corpus has {self.n_tokens} tokens, less than one window of {length}; "
                "give more text or a shorter context"
            )
        rng = np.random.default_rng(key)
        begin = rng.integers(0, self.n_tokens - length + 1, size=count)
        n_aligned = round(document_starts * count)
        chosen = self.starts[rng.integers(0, self.n_documents, size=n_aligned)]
        begin[:n_aligned] = np.minimum(chosen, self.n_tokens - length)
        begin = begin[part::parts]
        windows = self.tokens[begin[:, None] + np.arange(length)]  # (count / parts, length)
        return torch.from_numpy(windows.astype(np.int64))


def _source(file: str | Path) -> dict:
    """What a corpus notes about a text file. Raises InputError where it cannot be read."""
    sha256 = sha256_of_file(file)
    return {"name": Path(file).name, "bytes": Path(file).stat().st_size, "sha256": sha256}


def _batches(documents: Iterable[str], characters: int) -> Iterator[list[str]]:
    """Groups of documents of about so many characters, to keep several threads busy."""
    batch, held = [], 0
    for text in documents:
        batch.append(text)
        held += len(text)
        if held >= characters:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


@torch.no_grad()
def bits_per_byte(
    model: torch.nn.Module,
    corpus: Corpus,
    batch_size: int = 32,
    context: AbstractContextManager | None = None,
) -> dict[str, float]:
    """How well a language model predicts a text: the bits it would need to store it, per byte.

    Unlike the loss per token it can be compared between vocabularies, and with a compressor. Every
    token but the first is predicted once, in windows laid end to end, so on average only half the
    context stands before it. The bytes are those of the documents; predicting where a document
    ends counts as bits, not as bytes.

    Args:
        model: (batch, tokens) ids -> (batch, tokens, vocab_size) logits.
        corpus: usually the validation text.
        context: what to compute in, such as `llm.training.device.autocast(...)`; None: float32.

    Returns:
        `loss` (nats a token), `bits_per_byte`, `tokens` and `bytes`.
    """
    device = next(model.parameters()).device
    length = min(model.config.context_length, corpus.n_tokens - 1)
    ids = torch.from_numpy(corpus.tokens.astype(np.int64))
    whole = (len(ids) - 1) // length
    inputs = list(ids[: whole * length].view(whole, length).split(batch_size))
    targets = list(ids[1 : whole * length + 1].view(whole, length).split(batch_size))
    if rest := len(ids) - 1 - whole * length:
        inputs.append(ids[None, -rest - 1 : -1])
        targets.append(ids[None, -rest:])
    nats = torch.zeros((), dtype=torch.float64, device=device)
    for x, y in zip(inputs, targets):
        with context or nullcontext():
            logits = model(x.to(device))  # (batch, tokens, vocab_size)
        nats += torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), y.to(device).flatten(), reduction="sum"
        ).double()
    total = float(nats)
    return {
        "loss": total / (len(ids) - 1),
        "bits_per_byte": total / math.log(2) / corpus.n_bytes,
        "tokens": len(ids) - 1,
        "bytes": corpus.n_bytes,
    }
