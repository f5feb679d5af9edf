"""Text -> token ids and back, at full speed: the `mini` and the GPT-2 vocabularies.

`llm.data.bpe` shows how a vocabulary is learned and used. Here the same ranks are handed to
tiktoken, which gives the same ids some hundred times faster.
"""

import base64
import hashlib
import json
import os
from functools import cached_property
from pathlib import Path

import tiktoken

from llm.data.bpe import SPLIT_PATTERN
from llm.data.hub import cached_vocabulary
from llm.utils.errors import InputError, reason
from llm.utils.files import read_json, sha256_of_file, write_json, write_text
from llm.utils.paths import MINI_FOLDER

END_OF_TEXT = "<|endoftext|>"  # stands between documents; the one special token GPT-2 knows
GPT2_VARIABLE = "LLM_GPT2_VOCAB"  # environment: a folder with GPT-2's vocabulary files
VOCABULARY, DESCRIPTION = "vocabulary.tiktoken", "vocabulary.json"


class Tokenizer:
    """A vocabulary in use.

    Nothing that stands in a message acts as a special token: somebody who writes
    "<|endoftext|>" into a text message has written thirteen characters, and gets their ids. The
    special token is reached by its id alone, `eot_id`.
    """

    def __init__(
        self, name: str, ranks: dict[bytes, int], eot_id: int, pattern: str = SPLIT_PATTERN
    ):
        if sorted(ranks.values()) != list(range(len(ranks))) or eot_id != len(ranks):
            raise InputError(f"vocabulary {name}: the token numbers have gaps or repeats")
        if any(bytes([byte]) not in ranks for byte in range(256)):
            raise InputError(f"vocabulary {name}: a single-byte token is missing")
        self.name, self.ranks, self.pattern, self.eot_id = name, ranks, pattern, eot_id
        try:
            self.encoding = tiktoken.Encoding(
                name,
                pat_str=pattern,
                mergeable_ranks=ranks,
                special_tokens={END_OF_TEXT: eot_id},
                explicit_n_vocab=eot_id + 1,
            )
        except ValueError as error:
            raise InputError(f"vocabulary {name}: {error}") from None

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the special one included."""
        return self.eot_id + 1

    def encode(self, text: str) -> list[int]:
        """The ids of a text. A lone surrogate (half an emoji) is read as U+FFFD."""
        return self.encoding.encode_ordinary(text)

    def encode_batch(self, texts: list[str], threads: int = 2) -> list[list[int]]:
        """The ids of many texts, on several threads: worth it for long ones, as in a corpus."""
        return self.encoding.encode_ordinary_batch(texts, num_threads=threads)

    def decode_bytes(self, ids: list[int]) -> bytes:
        """The bytes that ids stand for. Raises InputError on an id that is no token's."""
        ids = [int(index) for index in ids]
        for index in ids:
            if not 0 <= index < self.vocab_size:
                raise InputError(f"{index} is not a token id; they go from 0 to {self.eot_id}")
        return self.encoding.decode_bytes(ids)

    def decode(self, ids: list[int]) -> str:
        """The text that ids stand for; bytes that are not UTF-8 by themselves become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def token(self, index: int) -> str:
        """One token, to be printed: `' call'`, and `b'\\xf0'` where it is part of a character."""
        token = self.decode_bytes([index])
        try:
            return repr(token.decode())
        except UnicodeDecodeError:
            return repr(token)

    def save(self, folder: str | Path) -> None:
        """Write the vocabulary into `folder`, in tiktoken's own format, with a description."""
        write_text(Path(folder) / VOCABULARY, self._lines())
        description = {
            "name": self.name,
            "vocab_size": self.vocab_size,
            "pattern": self.pattern,
            "special_tokens": {END_OF_TEXT: self.eot_id},
            "sha256": self.sha256,
        }
        write_json(Path(folder) / DESCRIPTION, description)

    @cached_property
    def sha256(self) -> str:
        """What the vocabulary file's content hashes to: tells one vocabulary from another."""
        return hashlib.sha256(self._lines().encode()).hexdigest()

    def _lines(self) -> str:
        """The vocabulary in tiktoken's format: a token in base64 and its number, a line each."""
        ordered = sorted(self.ranks.items(), key=lambda item: item[1])
        return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ordered)


def mini_tokenizer() -> Tokenizer:
    """The vocabulary of the bundled base: 8,192 tokens, learned by `llm.data.bpe`."""
    return saved_tokenizer(MINI_FOLDER)


def gpt2_tokenizer(folder: str | Path | None = None) -> Tokenizer:
    """GPT-2's own vocabulary, 50,257 tokens.

    From the files in `folder`, or in the folder that the environment variable LLM_GPT2_VOCAB
    names: `vocab.json` and `merges.txt` (Hugging Face), `encoder.json` and `vocab.bpe` (OpenAI),
    or `tokenizer.json`. Without either, from where `python -m llm download gpt2` has put it, and
    else tiktoken fetches it once and keeps it.

    Raises:
        InputError: the files are absent, damaged, or cannot be fetched.
    """
    folder = folder or os.environ.get(GPT2_VARIABLE) or cached_vocabulary()
    if folder:
        return _from_gpt2_files(Path(folder))
    try:
        encoding = tiktoken.get_encoding("gpt2")
    except Exception as error:  # requests, ssl, proxies: each has its own family of errors
        raise InputError(
            f"GPT-2's vocabulary cannot be fetched ({type(error).__name__}); connect to the "
            f"network once, or set {GPT2_VARIABLE} to a folder with vocab.json and merges.txt"
        ) from None
    return Tokenizer("gpt2", encoding._mergeable_ranks, encoding.eot_token, SPLIT_PATTERN)


def folder_tokenizer(folder: str | Path) -> Tokenizer:
    """The vocabulary in a model's folder: in tiktoken's format, or in GPT-2's own.

    Raises InputError where there is none, or a damaged one.
    """
    folder = Path(folder)
    return saved_tokenizer(folder) if (folder / VOCABULARY).exists() else _from_gpt2_files(folder)


def saved_tokenizer(folder: str | Path) -> Tokenizer:
    """A vocabulary that `Tokenizer.save` wrote. Raises InputError where it is not whole."""
    path = Path(folder) / VOCABULARY
    description = read_json(Path(folder) / DESCRIPTION)
    if sha256_of_file(path) != description.get("sha256"):
        raise InputError(f"{path} is damaged (its SHA-256 differs); fetch it anew")
    # A damaged pattern can bring tiktoken to a standstill, so none but GPT-2's is taken.
    if description.get("pattern") != SPLIT_PATTERN:
        raise InputError(f"{folder}/{DESCRIPTION}: the pattern is not GPT-2's; fetch it anew")
    content = _read_bytes(path)
    try:
        pairs = [line.split() for line in content.splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
        eot_id = int(description["special_tokens"][END_OF_TEXT])
        return Tokenizer(str(description["name"]), ranks, eot_id)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a vocabulary ({error}); fetch it anew") from None


# GPT-2's own files -------------------------------------------------------------------------------


def bytes_to_characters() -> dict[int, str]:
    """GPT-2's files write each byte as one printable character: `Ġ` is a space, byte 32.

    The 188 bytes that are printable in Latin-1 stand for themselves; the other 68, in order, for
    the characters from U+0100 on (the released encoder, `bytes_to_unicode`).
    """
    spans = (("!", "~"), ("¡", "¬"), ("®", "ÿ"))
    printable = [byte for first, last in spans for byte in range(ord(first), ord(last) + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable}
    return characters | {byte: chr(256 + index) for index, byte in enumerate(others)}


def _from_gpt2_files(folder: Path) -> Tokenizer:
    """Read whichever of the three layouts of GPT-2's vocabulary `folder` holds."""
    for vocabulary, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        if (folder / vocabulary).exists() and (folder / merges).exists():
            lines = _read_text(folder / merges).split("\n")
            pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
            return _from_merges(folder / vocabulary, read_json(folder / vocabulary), pairs)
    path = folder / "tokenizer.json"
    if not path.exists():
        raise InputError(
            f"{folder} holds no vocabulary: expected {VOCABULARY}, vocab.json and merges.txt, or "
            "tokenizer.json"
        )
    content = read_json(path)
    model = content.get("model")
    if not isinstance(model, dict) or '"ByteLevel"' not in json.dumps(content.get("pre_tokenizer")):
        raise InputError(f"{path} is not GPT-2's kind of vocabulary (byte-level BPE)")
    merges = model.get("merges")
    merges = merges if isinstance(merges, list) else []
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
    return _from_merges(path, model.get("vocab"), pairs)


def _from_merges(path: Path, numbers: dict, pairs: list) -> Tokenizer:
    """Check that the list of merges and the table of numbers tell the same story."""
    to_byte = {character: byte for byte, character in bytes_to_characters().items()}
    try:
        ranks = {
            bytes(to_byte[character] for character in token): number
            for token, number in numbers.items()
            if token != END_OF_TEXT
        }
        if len(ranks) != 256 + len(pairs):
            raise ValueError(f"{len(ranks)} tokens, {len(pairs)} merges")
        for index, (left, right) in enumerate(pairs):  # tiktoken reads the order off the numbers
            if numbers[left + right] != 256 + index:
                raise ValueError(f"the merge of {left!r} and {right!r} is out of order")
        return Tokenizer("gpt2", ranks, numbers[END_OF_TEXT])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} is not a whole GPT-2 vocabulary ({error}); fetch it anew"
        ) from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from None


def _read_text(path: Path) -> str:
    try:
        return _read_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; fetch it anew") from None
