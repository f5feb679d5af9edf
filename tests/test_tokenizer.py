"""The tokenizer: nothing in a message is special, every byte comes back, bad files are refused."""

import base64
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writing import GPT2, TEXTS, gpt2_ranks, needs_gpt2

from llm.data import bpe, tokenizer
from llm.data.tokenizer import (
    DESCRIPTION,
    END_OF_TEXT,
    GPT2_VARIABLE,
    MINI_FOLDER,
    VOCABULARY,
    Tokenizer,
    bytes_to_characters,
    gpt2_tokenizer,
    mini_tokenizer,
    saved_tokenizer,
)
from llm.formats.base import load_tokenizer
from llm.utils.errors import InputError

MINI = mini_tokenizer()
BYTES = {bytes([byte]): byte for byte in range(256)}


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_text_comes_back(text):
    assert MINI.decode(MINI.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=50), max_size=5))
def test_many_texts_at_once_are_encoded_as_each_alone(texts):
    assert MINI.encode_batch(texts) == [MINI.encode(text) for text in texts]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, MINI.eot_id), max_size=20))
def test_any_ids_decode_to_the_bytes_of_their_tokens(ids):
    tokens = {rank: token for token, rank in MINI.ranks.items()} | {
        MINI.eot_id: END_OF_TEXT.encode()
    }
    assert MINI.decode_bytes(ids) == b"".join(tokens[index] for index in ids)
    assert MINI.decode(ids) == MINI.decode_bytes(ids).decode("utf-8", "replace")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([END_OF_TEXT, "<|", "|>", " ", "a", "endoftext"]), max_size=8).map(
        "".join
    )
)
def test_special_tokens_in_a_message_never_act_as_special(text):
    ids = MINI.encode(text)
    assert MINI.eot_id not in ids
    assert MINI.decode(ids) == text
    assert ids == bpe.encode(text, MINI.ranks)


@pytest.mark.parametrize("text", TEXTS)
def test_readable_and_fast_encoding_agree(text):
    assert MINI.encode(text) == bpe.encode(text, MINI.ranks)
    assert MINI.decode(MINI.encode(text)) == bpe.clean(text)


def test_what_mini_is():
    assert MINI.vocab_size == 8192
    assert MINI.eot_id == 8191
    assert MINI.decode([MINI.eot_id]) == END_OF_TEXT
    assert [len(MINI.encode(word)) for word in (" the", " you", " said")] == [1, 1, 1]


@pytest.mark.parametrize("index", [-1, 8192, 10**12])
def test_ids_out_of_range_are_refused(index):
    with pytest.raises(InputError, match="not a token id; they go from 0 to 8191"):
        MINI.decode([1, index])


def test_a_token_is_shown_as_text_or_as_bytes():
    assert MINI.token(MINI.encode(" call")[0]) == "' call'"
    assert MINI.token(MINI.ranks[b"\xf0"]) == "b'\\xf0'"


def test_saved_and_loaded_it_is_the_same(tmp_path):
    own = Tokenizer("own", bpe.train_bpe(bpe.count_words(TEXTS), 300), 300)
    own.save(tmp_path)
    for again in (saved_tokenizer(tmp_path), load_tokenizer(tmp_path, 301)):
        assert (again.name, again.ranks, again.eot_id) == ("own", own.ranks, 300)
        assert again.sha256 == own.sha256
        assert again.encode(TEXTS[4]) == own.encode(TEXTS[4])


def test_a_saved_vocabulary_is_in_the_format_of_tiktoken(tmp_path):
    from tiktoken.load import load_tiktoken_bpe

    MINI.save(tmp_path)
    assert load_tiktoken_bpe(str(tmp_path / VOCABULARY)) == MINI.ranks


def test_a_vocabulary_too_large_for_the_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="8192 tokens, the model only 8000"):
        load_tokenizer("mini", 8000)


@pytest.mark.parametrize(
    "ranks, eot_id, reason",
    [
        ({**BYTES, b"ab": 257}, 257, "gaps"),
        ({**BYTES, b"ab": 255}, 256, "gaps"),
        (BYTES, 300, "gaps"),
        (BYTES, 255, "gaps"),
        (
            {b"ab": 0, **{token: rank + 1 for token, rank in BYTES.items() if rank < 255}},
            256,
            "a single-byte token is missing",
        ),
    ],
)
def test_numbers_with_gaps_or_without_a_byte_are_refused(ranks, eot_id, reason):
    with pytest.raises(InputError, match=reason):
        Tokenizer("bad", ranks, eot_id)


# Damaged files -----------------------------------------------------------------------------------


def forged(folder, content: bytes, **changes):
    """A vocabulary folder whose checksum is right, whatever the content."""
    folder.mkdir(exist_ok=True)
    (folder / VOCABULARY).write_bytes(content)
    description = {
        "name": "forged",
        "pattern": bpe.SPLIT_PATTERN,
        "special_tokens": {END_OF_TEXT: 256},
        "sha256": hashlib.sha256(content).hexdigest(),
    } | changes
    (folder / DESCRIPTION).write_text(json.dumps(description))
    return folder


LINES = [base64.b64encode(token) + b" %d" % rank for token, rank in BYTES.items()]


def test_a_forged_vocabulary_that_is_right_loads(tmp_path):
    assert saved_tokenizer(forged(tmp_path, b"\n".join(LINES))).encode("hi") == [104, 105]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "gaps or repeats"),
        (b"\n".join(LINES[:-1]), "gaps or repeats"),
        (b"\n".join(LINES)[:-2], "gaps or repeats"),
        (b"\n".join([*LINES, b"YWI="]), "not enough values"),
        (b"\n".join([*LINES, b"YWI= two"]), "invalid literal for int"),
        (b"\n".join([*LINES, b"YWI= 256 7"]), "too many values"),
        (b"\n".join([*LINES, b"Y*I= 256"]), "base64"),
        (b"\n".join([*LINES, b"YWI= 400"]), "gaps or repeats"),
        (b"\n".join([*LINES, b"AA== 256"]), "gaps or repeats"),
        (b"\xff\xfe\x00 binary \x00\n", "too many values"),
        (b"YQ== 99999999999999999999999999\n", "gaps or repeats"),
    ],
)
def test_a_vocabulary_file_that_is_none_is_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=rf"{VOCABULARY} is not a vocabulary .*{message}"):
        saved_tokenizer(forged(tmp_path, content))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sha256": "0" * 64}, f"{VOCABULARY} is damaged"),
        ({"sha256": None}, f"{VOCABULARY} is damaged"),
        ({"pattern": r"(a+)+$"}, f"{DESCRIPTION}: the pattern is not GPT-2's"),
        ({"pattern": None}, f"{DESCRIPTION}: the pattern is not GPT-2's"),
        ({"special_tokens": {}}, "is not a vocabulary .*endoftext"),
        ({"special_tokens": None}, "is not a vocabulary .*NoneType"),
        ({"special_tokens": {END_OF_TEXT: "x"}}, "is not a vocabulary .*'x'"),
        ({"special_tokens": {END_OF_TEXT: 7}}, "is not a vocabulary .*gaps or repeats"),
        ({"special_tokens": {END_OF_TEXT: [256]}}, "is not a vocabulary .*list"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        saved_tokenizer(forged(tmp_path, b"\n".join(LINES), **changes))


@settings(max_examples=60, deadline=None)
@given(where=st.integers(0, 10**6), length=st.integers(0, 10**6))
def test_a_truncated_or_altered_vocabulary_is_refused(tmp_path_factory, where, length):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    for name in (VOCABULARY, DESCRIPTION):
        (folder / name).write_bytes((MINI_FOLDER / name).read_bytes())
    content = bytearray((folder / VOCABULARY).read_bytes())
    cut = content[: length % len(content)]
    content[where % len(content)] ^= 1
    for damaged in (bytes(content), bytes(cut)):
        (folder / VOCABULARY).write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            saved_tokenizer(folder)


def test_absent_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        saved_tokenizer(tmp_path)
    with pytest.raises(InputError, match="holds no vocabulary"):
        load_tokenizer(tmp_path)
    with pytest.raises(InputError, match="neither a folder nor one of mini, gpt2"):
        load_tokenizer(tmp_path / "absent")


# GPT-2's own vocabulary --------------------------------------------------------------------------


def test_the_alphabet_of_gpt2():
    """tiktoken builds the same table, inside the function that reads the files."""
    table = bytes_to_characters()
    assert sorted(table) == list(range(256))
    assert len(set(table.values())) == 256
    assert (table[32], table[10], table[ord("a")], table[0xFF]) == ("Ġ", "Ċ", "a", "ÿ")


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """GPT-2's vocabulary in the three layouts; the third one is made here from the others."""
    if not (GPT2 / "vocab.bpe").exists():
        pytest.skip(f"GPT-2's vocabulary files are not in {GPT2}")
    numbers = json.loads((GPT2 / "encoder.json").read_text())
    merges = (GPT2 / "vocab.bpe").read_text(encoding="utf-8")
    hub = tmp_path_factory.mktemp("hub")
    (hub / "vocab.json").write_text(json.dumps(numbers))
    (hub / "merges.txt").write_text(merges, encoding="utf-8")
    folders = {"hub": hub, "openai": GPT2}
    lines = [line for line in merges.split("\n")[1:] if line]
    for name, pairs in (("json", lines), ("json-pairs", [line.split(" ") for line in lines])):
        folders[name] = tmp_path_factory.mktemp(name)
        content = {
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
            "model": {"type": "BPE", "vocab": numbers, "merges": pairs},
        }
        (folders[name] / "tokenizer.json").write_text(json.dumps(content))
    return folders


@pytest.mark.parametrize("name", ["hub", "openai", "json", "json-pairs"])
def test_gpt2_from_each_layout_equals_tiktoken(layouts, name):
    ours = gpt2_tokenizer(layouts[name])
    ranks, theirs = gpt2_ranks(GPT2)
    assert ours.ranks == ranks
    assert (ours.vocab_size, ours.eot_id) == (50257, 50256)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode_ordinary(text)
        assert ours.decode(ours.encode(text)) == bpe.clean(text)
    assert load_tokenizer(layouts[name], 50257).ranks == ranks


def test_gpt2_from_tokenizer_json_equals_the_library_that_defined_the_format(layouts, tmp_path):
    """`tokenizers` writes the file, we read it, and both must give the same ids."""
    import tokenizers

    theirs = tokenizers.ByteLevelBPETokenizer(
        str(layouts["hub"] / "vocab.json"), str(layouts["hub"] / "merges.txt")
    )
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = gpt2_tokenizer(tmp_path)
    for text in TEXTS:
        if END_OF_TEXT not in text:  # theirs takes it for the special token
            assert ours.encode(text) == theirs.encode(bpe.clean(text)).ids


@needs_gpt2
def test_the_environment_names_a_folder(monkeypatch):
    monkeypatch.setenv(GPT2_VARIABLE, str(GPT2))
    assert load_tokenizer("gpt2").vocab_size == 50257


@needs_gpt2
@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80))
def test_gpt2_equals_tiktoken_on_fuzzed_text(text):
    ours, (_, theirs) = _gpt2(), gpt2_ranks(GPT2)
    assert ours.encode(text) == theirs.encode_ordinary(text)
    assert ours.decode(ours.encode(text)) == text


def _gpt2(found=[]):  # noqa: B006
    if not found:
        found.append(gpt2_tokenizer(GPT2))
    return found[0]


@pytest.mark.parametrize(
    "vocabulary, merges", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")]
)
def test_damaged_gpt2_files_are_refused(tmp_path, vocabulary, merges):
    """A vocabulary of three merges in GPT-2's layout, then damaged in each possible way."""
    characters = bytes_to_characters()
    numbers = {character: byte for byte, character in characters.items()}
    numbers |= {"th": 256, "the": 257, "Ġthe": 258, END_OF_TEXT: 259}
    lines = ["#version: 0.2", "t h", "th e", "Ġ the", ""]

    def write(numbers, lines):
        content = numbers if isinstance(numbers, bytes) else json.dumps(numbers).encode()
        (tmp_path / vocabulary).write_bytes(content)
        content = lines if isinstance(lines, bytes) else "\n".join(lines).encode()
        (tmp_path / merges).write_bytes(content)

    write(numbers, lines)
    assert gpt2_tokenizer(tmp_path).encode(" the th") == [258, 32, 256]
    whole = json.dumps(numbers).encode()

    def without(token):
        return {key: value for key, value in numbers.items() if key != token}

    def refused(file, message):
        with pytest.raises(InputError, match=f"{file} .*{message}"):
            gpt2_tokenizer(tmp_path)

    for bad_numbers, message in (
        (whole[:-10], "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[]", "a JSON list, not an object"),
        (b"7", "a JSON int, not an object"),
        ({**numbers, "the": 258}, "merge of 'th' and 'e' is out of order"),
        ({**numbers, "the": "257"}, "merge of 'th' and 'e' is out of order"),
        (without("the"), "258 tokens, 3 merges"),
        (without("a"), "258 tokens, 3 merges"),
        (without(END_OF_TEXT), "endoftext"),
        ({**numbers, "猫": 260}, "猫"),
        ({**numbers, "a": None}, "NoneType"),
    ):
        write(bad_numbers, lines)
        refused(vocabulary, message)
    write(numbers, b"\xff\xfe")
    refused(merges, "is not UTF-8")
    for bad_lines, message in (
        (b"", "259 tokens, 0 merges"),
        (lines[:-2], "259 tokens, 2 merges"),
        ([*lines, "x y"], "259 tokens, 4 merges"),
        (["t h", "Ġ the", "th e"], "merge of 'Ġ' and 'the' is out of order"),
        ([*lines[:2], "the", *lines[3:]], "not enough values"),
        ([*lines[:2], "t h e", *lines[3:]], "too many values"),
    ):
        write(numbers, bad_lines)
        refused(vocabulary, message)


@pytest.mark.parametrize(
    "content",
    [
        {}, {"model": None}, {"model": []}, {"model": {"vocab": {}, "merges": []}},
        {"pre_tokenizer": {"type": "Whitespace"}, "model": {"vocab": {"a": 0}, "merges": []}},
        {"pre_tokenizer": {"type": "ByteLevel"}, "model": {"vocab": None, "merges": None}},
        {"pre_tokenizer": {"type": "ByteLevel"}, "model": {"vocab": {"a": 0}, "merges": [1]}},
        {"pre_tokenizer": {"type": "ByteLevel"}, "model": {"vocab": {"a": 0}, "merges": 5}},
        {"pre_tokenizer": {"type": "ByteLevel"}, "model": {"vocab": [1], "merges": ["a b"]}},
    ],
)  # fmt: skip
def test_a_tokenizer_json_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"tokenizer\.json is not (GPT-2's kind|a whole GPT-2)"):
        gpt2_tokenizer(tmp_path)


def test_without_files_or_network_the_error_says_what_to_do(monkeypatch):
    import tiktoken

    def offline(name):
        raise ConnectionError("no route to host")

    monkeypatch.delenv(GPT2_VARIABLE, raising=False)
    monkeypatch.setattr(tokenizer, "cached_vocabulary", lambda: None)
    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(InputError, match="set LLM_GPT2_VOCAB to a folder"):
        gpt2_tokenizer()
