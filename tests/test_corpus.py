"""The corpus on disk: what is stored, which windows are drawn, and bits per byte in closed form."""

import bz2
import gzip
import lzma
import math
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.data.corpus import Corpus, bits_per_byte, documents_of, read_documents
from llm.data.text_speak import SPELLINGS, text_speak
from llm.data.tokenizer import END_OF_TEXT, Tokenizer, mini_tokenizer
from llm.inference.text_bits import unigram_bits_per_byte, xz_bits_per_byte
from llm.utils.errors import InputError
from llm.utils.files import sha256_of_file

MINI = mini_tokenizer()
DOCUMENTS = [f"Document {n}: you are great.\nSee you tomorrow!\n" * (1 + n % 5) for n in range(250)]


def write(path, documents=DOCUMENTS):
    path.write_text("".join(f"{text}{END_OF_TEXT}\n" for text in documents), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="module")
def corpus(file, tmp_path_factory):
    return Corpus.build([file], MINI, tmp_path_factory.mktemp("corpus"))


# Reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix, pack", [(".xz", lzma), (".gz", gzip), (".bz2", bz2)])
def test_packed_files_are_unpacked(file, tmp_path, suffix, pack):
    packed = tmp_path / f"text.txt{suffix}"
    packed.write_bytes(pack.compress(file.read_bytes()))
    assert list(read_documents([packed])) == list(read_documents([file])) == DOCUMENTS
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot read the corpus file"):
        list(read_documents([packed]))


def test_documents_end_at_the_separator_alone(tmp_path):
    text = f"one\r\ntwo\n{END_OF_TEXT}\r\n\n \n{END_OF_TEXT}\nthree {END_OF_TEXT} three\nfour"
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert list(read_documents([tmp_path / "a.txt"])) == [
        "one\r\ntwo\n",
        f"three {END_OF_TEXT} three\nfour",
    ]


@pytest.mark.parametrize(
    "content, message",
    [
        (None, r"cannot read .*a\.txt: no such file"),
        (b"\xff\xfe bad", r"cannot read the corpus file .*a\.txt: 'utf-8' codec"),
        (b"", r"no text in .*a\.txt"),
    ],
)
def test_files_that_are_no_text_are_refused(tmp_path, content, message):
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        Corpus.build([path], MINI, tmp_path / "corpus")
    assert not (tmp_path / "corpus" / "corpus.json").exists()


def test_every_hundredth_document_is_held_out(file):
    held_out = list(documents_of([file], "validation"))
    assert held_out == DOCUMENTS[::100]
    assert list(documents_of([file], "train")) == [d for d in DOCUMENTS if d not in held_out]


def test_text_speak_adds_a_copy_of_each_document_but_not_of_books(tmp_path):
    book = "You are to see the phone tonight. " * 2000 + "\n"
    path = write(tmp_path / "a.txt", [*DOCUMENTS[:20], book])
    found = list(documents_of([path], with_text_speak=True))
    assert found[:21] == [*DOCUMENTS[:20], book]
    assert len(found) == 41
    copies = found[21:]
    assert any(" u " in copy or "gr8" in copy for copy in copies)
    assert found == list(documents_of([path], with_text_speak=True))  # the same each time


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80), st.integers(0, 2**32))
def test_text_speak_respells_words_and_keeps_lines(text, seed):
    import random

    spoken = text_speak(text, random.Random(seed))
    assert spoken.count("\n") == text.count("\n")
    assert spoken == text_speak(text, random.Random(seed))


def test_spellings_are_shorter_or_another_word_of_speech():
    assert all(len(s) <= len(word) for word, many in SPELLINGS.items() for s in many if s != "nope")


# On disk -----------------------------------------------------------------------------------------


def test_what_is_stored(corpus):
    ids = [MINI.encode(text) for text in DOCUMENTS]
    expected = [index for row in ids for index in [*row, MINI.eot_id]]
    assert corpus.tokens.tolist() == expected
    assert corpus.starts.tolist() == [
        0, *np.cumsum([len(row) + 1 for row in ids])[:-1].tolist()
    ]  # fmt: skip
    assert (corpus.n_tokens, corpus.n_documents) == (len(expected), 250)
    assert corpus.n_bytes == len("".join(DOCUMENTS).encode())
    assert isinstance(corpus.tokens, np.memmap)
    assert (corpus.folder / "tokens.bin").stat().st_size == 2 * len(expected)


def test_the_tokens_are_mapped_and_cannot_be_written(corpus):
    assert corpus.tokens.mode == "r"
    with pytest.raises(ValueError, match="read-only"):
        corpus.tokens[0] = 1


def test_a_corpus_made_from_the_same_is_used_again_and_from_another_is_not(file, tmp_path):
    Corpus.build([file], MINI, tmp_path / "c")
    before = (tmp_path / "c" / "tokens.bin").stat().st_mtime_ns
    again = Corpus.build([file], MINI, tmp_path / "c")
    assert (tmp_path / "c" / "tokens.bin").stat().st_mtime_ns == before
    other = write(tmp_path / "other.txt", DOCUMENTS[:3])
    assert Corpus.build([other], MINI, tmp_path / "c").n_documents == 3
    assert Corpus.build([other], MINI, tmp_path / "c", with_text_speak=True).n_documents == 6
    assert again.made_from["sources"][0]["sha256"] == sha256_of_file(file)


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("tokens.bin", lambda content: content[:-1], "not 186 bytes long"),
        ("tokens.bin", lambda content: content + b"\0\0", "not 186 bytes long"),
        ("starts.bin", lambda content: b"", "not 24 bytes long"),
        ("corpus.json", lambda content: content[:-9], "not valid JSON"),
        ("corpus.json", lambda content: b"{}", "does not describe a corpus .'tokens'"),
        (
            "corpus.json",
            lambda content: b'{"tokens": "x", "documents": 1, "bytes": 1}',
            "does not describe a corpus .invalid literal",
        ),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, change, message):
    Corpus.build([write(tmp_path / "a.txt", DOCUMENTS[:3])], MINI, tmp_path / "c")
    path = tmp_path / "c" / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=f"{name} .*{message}"):
        Corpus(tmp_path / "c")


def test_a_vocabulary_too_large_for_16_bits_is_refused(file, tmp_path):
    huge = SimpleNamespace(vocab_size=2**16 + 1)
    with pytest.raises(InputError, match="16-bit"):
        Corpus.build([file], huge, tmp_path)


# Windows -----------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 99), step=st.integers(0, 10**6), share=st.floats(0, 1))
def test_windows_are_a_function_of_the_key(corpus, seed, step, share):
    draw = {"length": 17, "count": 12, "key": [seed, step], "document_starts": share}
    whole = corpus.windows(**draw)
    assert whole.shape == (12, 17)
    assert whole.dtype == torch.int64
    assert torch.equal(whole, corpus.windows(**draw))
    assert torch.equal(whole, Corpus(corpus.folder).windows(**draw))
    other = corpus.windows(**draw | {"key": [seed, step + 1]})
    assert not torch.equal(whole, other)
    for parts in (2, 3, 4):  # together the parts are the batch, each window once
        cut = [corpus.windows(**draw, part=part, parts=parts) for part in range(parts)]
        assert all(len(part) == 12 // parts for part in cut)
        woven = torch.stack(cut, dim=1).flatten(0, 1)
        assert torch.equal(woven, whole)


def test_windows_are_pieces_of_the_text(corpus):
    text = corpus.tokens.tolist()
    for window in corpus.windows(10, 40, key=[3]).tolist():
        assert any(text[i : i + 10] == window for i in range(len(text)))


def test_the_share_that_begins_with_a_document_does(corpus):
    starts = {tuple(corpus.tokens[s : s + 6].tolist()) for s in corpus.starts}
    aligned = [
        tuple(w) in starts for w in corpus.windows(6, 100, [1], document_starts=0.3).tolist()
    ]
    assert all(aligned[:30])
    assert sum(aligned[30:]) < 35  # half of the others at most, and those by chance
    assert all(tuple(w) in starts for w in corpus.windows(6, 50, [1], document_starts=1.0).tolist())


def test_every_place_is_drawn_the_last_one_too(tmp_path):
    small = Corpus.build([write(tmp_path / "a.txt", ["one two three\n"])], MINI, tmp_path / "c")
    length = small.n_tokens - 2
    seen = {tuple(w) for w in small.windows(length, 200, key=[0]).tolist()}
    assert len(seen) == 3
    with pytest.raises(InputError, match="less than one window"):
        small.windows(small.n_tokens + 1, 1, key=[0])


# Bits per byte -----------------------------------------------------------------------------------


class Fixed(torch.nn.Module):
    """The same prediction everywhere: known probabilities, whatever was read."""

    def __init__(self, logits: torch.Tensor, context_length: int):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)
        self.config = SimpleNamespace(context_length=context_length)
        self.seen = 0

    def forward(self, ids):
        self.seen += ids.numel()
        return self.logits.expand(*ids.shape, -1)


@pytest.mark.parametrize("context", [7, 64, 10**6])
def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary_a_token(corpus, context):
    model = Fixed(torch.zeros(8192), context)
    found = bits_per_byte(model, corpus, batch_size=5)
    predicted = corpus.n_tokens - 1  # every token but the first, once
    assert model.seen == predicted
    assert (found["tokens"], found["bytes"]) == (predicted, corpus.n_bytes)
    assert found["bits_per_byte"] == pytest.approx(13 * predicted / corpus.n_bytes, rel=1e-6)
    assert found["loss"] == pytest.approx(math.log(8192), rel=1e-6)


def test_a_model_that_knows_the_frequencies_needs_their_entropy(corpus):
    counts = np.bincount(corpus.tokens, minlength=8192) + 1
    found = bits_per_byte(Fixed(torch.tensor(counts / counts.sum()).log().float(), 64), corpus)
    assert found["bits_per_byte"] == pytest.approx(unigram_bits_per_byte(corpus, corpus), rel=1e-5)


class NextByOne(torch.nn.Module):
    """Is sure that after id n comes n + 1."""

    def __init__(self, context_length):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(50.0))
        self.config = SimpleNamespace(context_length=context_length)

    def forward(self, ids):
        return self.scale * torch.nn.functional.one_hot((ids + 1) % 257, 257).float()


@pytest.mark.parametrize("context", [3, 64])
def test_each_token_is_predicted_from_the_one_before_it(tmp_path, context):
    """Bytes in rising order: nothing is surprising, if inputs and targets are set side by side."""
    letters = Tokenizer("bytes", {bytes([byte]): byte for byte in range(256)}, 256)
    path = tmp_path / "a.txt"
    path.write_text("".join(map(chr, range(33, 127))))
    corpus = Corpus.build([path], letters, tmp_path / "c")
    corpus.tokens = corpus.tokens[:-1]  # without the end of the text, which is not 127
    corpus.n_tokens -= 1
    found = bits_per_byte(NextByOne(context), corpus, batch_size=4)
    assert found["bits_per_byte"] == pytest.approx(0, abs=1e-6)


def test_token_frequencies_against_the_formula(tmp_path):
    letters = Tokenizer("bytes", {bytes([byte]): byte for byte in range(256)}, 256)
    train = Corpus.build([write(tmp_path / "a.txt", ["aab\n"])], letters, tmp_path / "train")
    test = Corpus.build([write(tmp_path / "b.txt", ["abc\n"])], letters, tmp_path / "test")
    # Counts plus one over ids 0 to 256: a 3, b 2, line end 2, end of text 2, c 1; 257 + 5 in all.
    # The first token of the text, a, is not predicted; the text is four bytes.
    bits = -sum(math.log2(count / 262) for count in (2, 1, 2, 2))
    assert unigram_bits_per_byte(train, test) == pytest.approx(bits / 4)


def test_xz_equals_the_program(tmp_path):
    text = "".join(DOCUMENTS).encode()
    (tmp_path / "text").write_bytes(text)
    try:
        packed = subprocess.run(
            ["xz", "-9", "-c", tmp_path / "text"], capture_output=True, check=True
        ).stdout
    except FileNotFoundError:
        pytest.skip("the program xz is not installed")
    assert xz_bits_per_byte(text) == 8 * len(packed) / len(text)
