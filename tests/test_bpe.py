"""BPE: the fast trainer against one that recounts everything, the encoder against tiktoken."""

from collections import Counter

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from writing import GPT2, TEXTS, gpt2_ranks, needs_gpt2

from llm.data import bpe
from llm.data.tokenizer import mini_tokenizer
from llm.utils.errors import InputError

STORY = (
    "Once upon a time there was a cat. The cat sat on the mat, and the mat sat on the cat! "
    "Wann kommst du? Ich komme um 7, sagte die Katze. 猫は猫である。 It's 12345, isn't it?\n\n"
)


def naive_bpe(word_counts: dict[bytes, int], vocab_size: int) -> dict[bytes, int]:
    """By the book (Sennrich et al. 2016, algorithm 1): count all pairs anew for every merge."""
    words = {word: [bytes([byte]) for byte in word] for word in word_counts}
    ranks = {bytes([byte]): byte for byte in range(256)}
    while len(ranks) < vocab_size:
        pairs = Counter()
        for word, parts in words.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += word_counts[word]
        # The most frequent; among equals the one of the lowest numbers.
        left, right = min(pairs, key=lambda pair: (-pairs[pair], ranks[pair[0]], ranks[pair[1]]))
        ranks.setdefault(left + right, len(ranks))
        for word, parts in words.items():
            joined = []
            while parts:
                if parts[:2] == [left, right]:
                    joined.append(left + right)
                    parts = parts[2:]
                else:
                    joined.append(parts[0])
                    parts = parts[1:]
            words[word] = joined
    return ranks


def test_training_equals_counting_all_pairs_each_time():
    counts = bpe.count_words([STORY, STORY[::2], STORY[::-1]])
    assert bpe.train_bpe(counts, 400) == naive_bpe(counts, 400)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text("ab", min_size=1, max_size=9), st.integers(1, 3), min_size=4))
def test_training_words_full_of_ties_equals_counting_all_pairs(words):
    """Two letters and small counts: ties, overlaps such as aaa, and one token from two pairs."""
    counts = {word.encode(): count for word, count in words.items()}
    size = 256
    try:
        while True:
            naive = naive_bpe(counts, size + 1)
            size += 1
            if size == 270:
                break
    except ValueError:  # nothing is left to merge
        with pytest.raises(InputError, match="too short"):
            bpe.train_bpe(counts, size + 1)
        naive = naive_bpe(counts, size)
    assert bpe.train_bpe(counts, size) == naive


def test_ties_go_to_the_lowest_numbers_whatever_the_order_of_the_words():
    forward = {b"dc": 2, b"ab": 2, b"cd": 2}
    backward = dict(reversed(forward.items()))
    expected = [b"ab", b"cd", b"dc"]
    for counts in (forward, backward):
        ranks = bpe.train_bpe(counts, 259)
        assert list(ranks)[256:] == expected
        assert list(ranks.values()) == list(range(259))


def test_words_are_counted_and_not_joined_across():
    assert bpe.count_words(["a cat", "a cat, a dog"]) == {
        b"a": 2, b" cat": 2, b",": 1, b" a": 1, b" dog": 1,
    }  # fmt: skip
    ranks = bpe.train_bpe(bpe.count_words(["ab cd " * 50]), 260)
    assert not any(b"b c" in token for token in ranks)


@pytest.mark.parametrize("size", [0, 255])
def test_fewer_tokens_than_bytes_are_refused(size):
    with pytest.raises(InputError, match="256 bytes"):
        bpe.train_bpe({b"ab": 1}, size)


@pytest.mark.parametrize("counts", [{}, {b"a": 5}, {b"aaaa": 5}])
def test_a_text_too_short_is_refused(counts):
    with pytest.raises(InputError, match="too short for 300 tokens"):
        bpe.train_bpe(counts, 300)


def test_no_progress_bar_where_nobody_looks(capfd):
    bpe.train_bpe(bpe.count_words([STORY]), 280)
    assert capfd.readouterr() == ("", "")


def test_a_word_is_cut_a_merge_at_a_time():
    ranks = bpe.train_bpe({b"the": 6, b"then": 5, b"hen": 7}, 259)
    assert list(ranks)[256:] == [b"he", b"hen", b"the"]
    # "hen" was learned before "the", so "then" begins with a lonely t.
    assert list(bpe.merge_steps(b"then", ranks)) == [
        [b"t", b"h", b"e", b"n"], [b"t", b"he", b"n"], [b"t", b"hen"],
    ]  # fmt: skip


def test_a_vocabulary_without_a_byte_is_not_whole():
    with pytest.raises(InputError, match="not whole"):
        list(bpe.merge_steps(b"hi", {b"h": 0}))


def test_an_unknown_id_is_refused():
    with pytest.raises(InputError, match="300 is not the id of any of 256 tokens"):
        bpe.decode([300], {bytes([byte]): byte for byte in range(256)})


TRAINED = bpe.train_bpe(bpe.count_words([STORY, *TEXTS]), 420)
TIKTOKEN = tiktoken.Encoding(
    "trained", pat_str=bpe.SPLIT_PATTERN, mergeable_ranks=TRAINED, special_tokens={}
)
MINI = mini_tokenizer()


@pytest.mark.parametrize("text", TEXTS)
def test_encoding_equals_tiktoken_on_every_script(text):
    assert bpe.encode(text, TRAINED) == TIKTOKEN.encode_ordinary(text)
    assert bpe.encode(text, MINI.ranks) == MINI.encoding.encode_ordinary(text)
    assert bpe.decode(bpe.encode(text, MINI.ranks), MINI.ranks) == bpe.clean(text).encode()


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_encoding_equals_tiktoken_on_fuzzed_text(text):
    assert bpe.encode(text, TRAINED) == TIKTOKEN.encode_ordinary(text)
    ids = bpe.encode(text, MINI.ranks)
    assert ids == MINI.encoding.encode_ordinary(text)
    assert bpe.decode(ids, MINI.ranks) == text.encode()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_come_back(data):
    """Bytes that are no text can only be cut, not split into words first."""
    *_, parts = bpe.merge_steps(data, MINI.ranks)
    ids = [MINI.ranks[part] for part in parts]
    assert bpe.decode(ids, MINI.ranks) == data
    assert MINI.decode_bytes(ids) == data
    if data:  # tiktoken's own check of this kind, under a private name
        assert ids == MINI.encoding._encode_single_piece(data)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(categories=["Cs", "L", "Zs"]), max_size=20))
def test_lone_surrogates_are_read_as_tiktoken_reads_them(text):
    assert bpe.encode(text, MINI.ranks) == MINI.encoding.encode_ordinary(text)


def test_half_an_emoji_becomes_the_replacement_character():
    assert bpe.clean("a\ud83d b") == "a\ufffd b"
    assert bpe.clean("\ud83d\ude00") == "\U0001f600"


@settings(deadline=None)
@given(st.text(max_size=80))
def test_words_joined_are_the_text(text):
    assert "".join(bpe.split_words(text)) == text


@needs_gpt2
@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60) | st.sampled_from(TEXTS))
def test_encoding_equals_tiktoken_on_the_vocabulary_of_gpt2(text):
    ranks, theirs = gpt2_ranks(GPT2)
    ids = bpe.encode(text, ranks)
    assert ids == theirs.encode_ordinary(text)
    assert bpe.decode(ids, ranks) == bpe.clean(text).encode()
