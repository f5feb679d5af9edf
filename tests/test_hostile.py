"""Damaged and hostile files and messages, through the command line.

Whatever a file holds, a command ends with 0, or with 2 and one line that begins with `error:`;
where a hash or a fingerprint can tell that a file is damaged, with 2. It never ends with a
traceback, never with memory that no file justifies, never by running what a file
says.
"""

import contextlib
import io
import json
import pickle
import re
import shutil
import struct
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from killing import run
from safetensors.torch import load_file, save_file
from small import change_record, sign, write_adapter, write_base, write_messages

from llm.cli.parser import main
from llm.data.tokenizer import mini_tokenizer
from llm.lora.methods import apply_method
from llm.model.classifier import GPTClassifier
from llm.training.checkpoint import CHECKPOINT
from llm.training.classification import ClassificationTask
from llm.training.loop import train
from llm.training.settings import TrainSettings
from llm.utils.errors import InputError
from llm.utils.files import open_tensors


def hostile(examples: int):
    """Many examples, the same ones in every run of the tests."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """An adapter in `adapter`, its base in `base`, messages in `messages.tsv`."""
    where = tmp_path_factory.mktemp("good")
    base, tsv = write_base(where / "base"), write_messages(where / "messages.tsv")
    write_adapter(where / "adapter", base, tsv)
    return where


@pytest.fixture
def bad(good, tmp_path) -> Path:
    """A copy to be damaged, whose adapter still names the good base."""
    return shutil.copytree(good, tmp_path / "bad")


def command(*arguments, text: bytes = b"") -> tuple[int, str]:
    """Run it here. Returns the status and what it printed, on stderr where it was refused.

    A traceback fails the test.
    """
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2)]
    stdin, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(text), "utf-8")
    try:
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            try:
                status = main([str(argument) for argument in arguments])
            except SystemExit as ended:  # argparse
                status = ended.code
            for stream in streams:
                stream.flush()
    finally:
        sys.stdin = stdin
    printed, errors = (stream.buffer.getvalue().decode() for stream in streams)
    assert status in (0, 2)
    if status == 2:
        assert errors.startswith("error: "), errors
        assert errors.count("\n") == 1, errors
        assert len(errors) < 2000
        assert printed == ""
    return status, errors if status == 2 else printed


def answers(folder: Path, *messages: str, text: bytes = b"") -> list[dict] | None:
    """Label messages; an answer that comes is a label with a probability. None: refused."""
    messages = messages or () if text else ("WIN a prize", "see you")
    status, printed = command("predict", "--from", folder, "--json", "--", *messages, text=text)
    if status == 2:
        return None
    found = json.loads(printed)
    assert all(0.5 <= answer["probability"] <= 1 for answer in found)
    return found


def predict(folder: Path, *messages: str, text: bytes = b"") -> int:
    """The status of labelling messages."""
    return 2 if answers(folder, *messages, text=text) is None else 0


# Files with wrong bytes --------------------------------------------------------------------------

damage = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
    st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 7)),
    st.tuples(st.just("flip early"), st.floats(0, 1), st.integers(0, 7)),
    st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("replace"), st.floats(0, 1), st.binary(max_size=200)),
)


def damaged(data: bytes, kind: str, where: float, what) -> bytes:
    """Cut off, flip a bit, insert, or replace everything."""
    at = min(int(where * len(data)), len(data) - 1)
    if kind == "cut":
        return data[:at]
    if kind == "replace":
        return what
    if kind == "insert":
        return data[:at] + what + data[at:]
    at = at if kind == "flip" else at % 2000  # where the headers are
    return data[:at] + bytes([data[at] ^ (1 << what)]) + data[at + 1 :]


@pytest.mark.parametrize("name", ["adapter.safetensors", "run.json"])
def test_a_damaged_adapter_folder(good, bad, name):
    """Any wrong byte among the numbers is found out; the words of run.json may be other words."""
    whole = (good / "adapter" / name).read_bytes()

    @hostile(60)
    @given(damage)
    def check(how):
        (bad / "adapter" / name).write_bytes(damaged(whole, *how))
        status = predict(bad / "adapter")
        assert status == 2 or name == "run.json"

    check()
    (bad / "adapter" / name).write_bytes(whole)
    assert predict(bad / "adapter") == 0


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "vocabulary.json", "vocabulary.tiktoken"]
)
def test_a_damaged_base(good, bad, name):
    """An adapter on it is refused, or answers as before: only its own base will do."""
    whole = (good / "base" / name).read_bytes()
    base = json.loads((bad / "adapter" / "run.json").read_text())["base"]
    change_record(bad / "adapter", base={**base, "model": str(bad / "base")})
    before = answers(bad / "adapter")
    assert before

    @hostile(30)
    @given(damage)
    def check(how):
        (bad / "base" / name).write_bytes(damaged(whole, *how))
        status, _ = command("generate", "--model", bad / "base", "--tokens", 2, "once")
        assert status == 2 or name != "vocabulary.tiktoken"  # which has its SHA-256 beside it
        assert answers(bad / "adapter") in (None, before)

    check()


def test_a_damaged_message_file(good, bad):
    whole = (good / "messages.tsv").read_bytes()

    @hostile(40)
    @given(damage)
    @example(("replace", 0, b"ham\t\xff\nspam\tx"))
    @example(("replace", 0, "ham\t🎉\u202e \x1b[2J<|endoftext|>\nspam\tx".encode()))
    @example(("replace", 0, b"PK\x03\x04"))
    def check(how):
        (bad / "messages.tsv").write_bytes(damaged(whole, *how))
        command("evaluate", "--from", good / "adapter", "--data", bad / "messages.tsv", "--json")

    check()


# Files that are well formed and lie ------------------------------------------------------------

nasty = st.sampled_from(
    [None, True, -1, 0, 1, 3, 2**31, 10**9, 10**30, 0.5, 1e300, float("nan"), float("inf")]
    + ["", "x", "../..", "\0", "\ud800", "9" * 5000, [], [1], ["W_query", "W_query"], {}, {"a": 1}]
)


def places(content, path=()):
    """Every place in a JSON object, as a tuple of keys."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def changed(content, path, value):
    """A copy of a JSON object with another value in one place."""
    copy = json.loads(json.dumps(content))
    owner = copy
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = value
    return copy


def test_a_run_json_that_lies_in_any_field(good, bad):
    path = bad / "adapter" / "run.json"
    content = json.loads(path.read_text())
    read = {"format", "config", "method", "task", "labels", "base", "lora", "weights_sha256"}
    found = [place for place in places(content) if place[0] in read]
    # What may be otherwise for all that anybody can tell: names, what training alone needs (the
    # base has learned weights), the strength of the update, and that there is no SHA-256.
    free = {("task",), ("labels", 0), ("labels", 1), ("base", "seed"), ("weights_sha256",)}
    free |= {("lora", "alpha"), ("lora", "dropout"), ("lora", "rslora")}

    @hostile(200)
    @given(st.sampled_from(found), nasty)
    @example(("lora", "rank"), 10**9)
    @example(("lora", "rank"), 10**30)
    @example(("config", "emb_dim"), 10**7)
    @example(("config", "n_layers"), 10**9)
    @example(("base", "seed"), 10**30)
    def check(place, value):
        lie = changed(content, place, value)
        path.write_text(json.dumps(lie))
        assert predict(bad / "adapter") == 2 or place in free or lie == content

    check()


def test_a_config_json_that_lies_in_any_field(bad):
    path = bad / "base" / "config.json"
    content = json.loads(path.read_text())

    @hostile(60)
    @given(st.sampled_from(list(places(content))), nasty)
    @example(("emb_dim",), 10**7)
    @example(("vocab_size",), 10**9)
    @example(("vocab_size",), 10**6)
    @example(("context_length",), 10**7)
    def check(place, value):
        path.write_text(json.dumps(changed(content, place, value)))
        command("generate", "--model", bad / "base", "--tokens", 2, "once")
        command("info", "--model", bad / "base")

    check()


def test_a_vocabulary_that_lies_in_any_field(bad):
    path = bad / "base" / "vocabulary.json"
    content = json.loads(path.read_text())

    @hostile(40)
    @given(st.sampled_from(list(places(content))), nasty)
    @example(("pattern",), "(a+)+$")
    @example(("pattern",), "[")
    @example(("pattern",), "")
    @example(("pattern",), "((((((((((a*)*)*)*)*)*)*)*)*)*)*b")
    def check(place, value):
        path.write_text(json.dumps(changed(content, place, value)))
        command("generate", "--model", bad / "base", "--tokens", 2, "a" * 60)

    check()


names = st.sampled_from(["head.weight", "head.bias", "x", "", "body.trf_blocks.0.att.W_key.lora.A"])
sizes = st.one_of(st.integers(0, 40), st.sampled_from([2**31, 2**40, 2**63, 2**64, 10**30]))
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I64", "BOOL", "F8_E4M3", "C64", 1]),
        "shape": st.lists(sizes, max_size=4),
        "data_offsets": st.one_of(st.tuples(sizes, sizes), st.just([0]), st.just("x")),
    }
)
headers = st.one_of(
    st.dictionaries(names, entries, max_size=4),
    st.recursive(st.none() | st.integers() | st.text(), lambda x: st.dictionaries(st.text(), x)),
)


def test_safetensors_headers_made_to_harm(good, bad):
    path = bad / "adapter" / "adapter.safetensors"

    @hostile(100)
    @given(headers, st.one_of(st.none(), sizes.filter(lambda n: n < 2**64)), st.binary(max_size=99))
    def check(header, length, data):
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
        sign(bad / "adapter")
        assert predict(bad / "adapter") == 2

    check()


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int8,
        torch.int64,
        torch.bool,
        torch.float8_e4m3fn,
        torch.complex64,
        torch.uint16,
    ],
)
def test_tensors_of_other_types(bad, dtype):
    """Other floating point numbers are converted, anything else is refused."""
    path = bad / "adapter" / "adapter.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)
    sign(bad / "adapter")
    kept = dtype in (torch.float64, torch.float16, torch.bfloat16)
    assert predict(bad / "adapter") == (0 if kept else 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_weights_that_are_no_numbers_or_lead_to_none(bad, value):
    path = bad / "adapter" / "adapter.safetensors"
    save_file({n: torch.full_like(t, value) for n, t in load_file(path).items()}, path)
    sign(bad / "adapter")
    assert predict(bad / "adapter") == 2


# Memory and code -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "place", "value"),
    [
        ("adapter/run.json", ("lora", "rank"), 10**9),
        ("adapter/run.json", ("lora", "rank"), 10**7),
        ("adapter/run.json", ("config", "vocab_size"), 10**7),
        ("adapter/run.json", ("config", "context_length"), 10**7),
        ("adapter/run.json", ("config", "emb_dim"), 10**6),
        ("base/config.json", ("vocab_size",), 10**7),
        ("base/config.json", ("context_length",), 10**7),
        ("base/config.json", ("emb_dim",), 10**6),
        ("base/config.json", ("n_layers",), 10**9),
    ],
)
def test_no_more_memory_is_taken_than_the_files_justify(bad, file, place, value):
    """The process may take 100 MB; the tensors that the file tells of would take 640 and more."""
    path = bad / file
    path.write_text(json.dumps(changed(json.loads(path.read_text()), place, value)))
    if file.startswith("base"):
        arguments = ["generate", "--model", bad / "base", "--tokens", 2, "once"]
    else:
        arguments = ["predict", "--from", bad / "adapter", "once"]
    done = run([*arguments, "--device", "cpu"], bad, memory=100 * 2**20)
    assert done.status == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert "allocate" not in done.stderr
    assert done.stderr.count("\n") == 1


class Harm:
    """A pickle that writes a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_is_unpickled(bad, tmp_path):
    harm = pickle.dumps(Harm(tmp_path / "harm"))
    for name in ("adapter.safetensors", "run.json", "pytorch_model.bin"):
        (bad / "adapter" / name).write_bytes(harm)
        if name == "adapter.safetensors":
            sign(bad / "adapter")
        assert predict(bad / "adapter") == 2
    (bad / "base" / "pytorch_model.bin").write_bytes(harm)
    (bad / "base" / "model.safetensors").unlink()
    status, _ = command("generate", "--model", bad / "base", "once")
    assert status == 2
    pickle.loads(harm)  # it would have worked
    assert (tmp_path / "harm").exists()
    sources = (Path(__file__).parents[1] / "llm").rglob("*.py")
    code = "\n".join(source.read_text() for source in sources)
    for word in ("torch.load", "import pickle", "eval(compile", "exec(", "yaml.load", "joblib"):
        assert word not in code


# Checkpoints -----------------------------------------------------------------------------------


def resumed(tiny, messages, folder) -> bool:
    """Go on from a checkpoint; False where that was refused."""
    torch.manual_seed(0)
    model = GPTClassifier(tiny)
    task = ClassificationTask(model, messages, messages, 8, 0, apply_method(model, "lora"))
    try:
        history = train(model, task, TrainSettings(6, 1e-2, evaluate_every=3), folder, resume=True)
    except InputError as error:
        assert len(str(error)) < 2000
        return False
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert json.loads(json.dumps(history)) is not None
    return True


@pytest.fixture
def checkpoint(tiny, messages, tmp_path) -> Path:
    """A checkpoint at step 3 of 6."""
    torch.manual_seed(0)
    model = GPTClassifier(tiny)
    task = ClassificationTask(model, messages, messages, 8, 0, apply_method(model, "lora"))

    evaluations = []

    def stop_at_the_second(model):
        if evaluations:
            raise KeyboardInterrupt
        evaluations.append(ClassificationTask.evaluate(task, model))
        return evaluations[0]

    task.evaluate = stop_at_the_second
    with contextlib.suppress(KeyboardInterrupt):
        train(model, task, TrainSettings(6, 1e-2, evaluate_every=3), tmp_path)
    return tmp_path / CHECKPOINT


def test_a_damaged_checkpoint(tiny, messages, checkpoint):
    whole = checkpoint.read_bytes()
    assert resumed(tiny, messages, checkpoint.parent)

    @hostile(60)
    @given(damage)
    def check(how):
        checkpoint.write_bytes(damaged(whole, *how))
        resumed(tiny, messages, checkpoint.parent)

    check()


def test_a_checkpoint_that_lies_in_any_field(tiny, messages, checkpoint):
    tensors = load_file(checkpoint)
    with open_tensors(checkpoint) as reader:
        about = json.loads(reader.metadata()["run"])

    @hostile(60)
    @given(st.sampled_from(list(places(about))), nasty)
    def check(place, value):
        text = json.dumps(changed(about, place, value))
        save_file(tensors, checkpoint, {"run": text})
        resumed(tiny, messages, checkpoint.parent)

    check()


def test_a_checkpoint_with_numbers_that_are_none(tiny, messages, checkpoint):
    tensors = load_file(checkpoint)
    with open_tensors(checkpoint) as reader:
        metadata = reader.metadata()
    for name in list(tensors)[::9]:
        wrong = tensors | {name: torch.full_like(tensors[name], torch.nan)}
        save_file(wrong, checkpoint, metadata)
        assert not resumed(tiny, messages, checkpoint.parent), name


# Messages --------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=()), max_size=60)  # lone surrogates included


def test_messages_of_every_kind_as_arguments(good):
    @hostile(20)
    @given(st.lists(text.filter(lambda t: "\0" not in t), min_size=1, max_size=4))
    @example([""])
    @example(["see you", " \u2003\n"])
    @example(["x" * 100_000])
    @example(["🎉 \u202eשלום مرحبا \x1b[2J\x07", "<|endoftext|>", "\ud800", "\udcff"])
    def check(messages):
        status, printed = command("predict", "--from", good / "adapter", "--", *messages)
        if not all(message.strip() for message in messages):
            assert status == 2 and "is empty" in printed
            return
        assert status == 0
        lines = printed.split("\n")
        assert len(lines) == len(messages) + 1  # one line each, whatever line breaks are in it
        assert not set("\x1b\x07\x9b\u2028\r") & set(printed)  # nothing that steers a terminal

    check()


def test_messages_of_every_kind_on_standard_input(good):
    @hostile(40)
    @given(st.one_of(st.binary(max_size=60), text.map(lambda t: t.encode("utf-8", "replace"))))
    @example(b"")
    @example("one\u2028line\x85still\x0b\x0cthe same\r\ntwo".encode())
    def check(data):
        status, printed = command("predict", "--from", good / "adapter", "--json", text=data)
        lines = [line for line in data.decode("utf-8", "replace").split("\n") if line.strip()]
        assert status == (0 if lines else 2)
        if lines:
            assert len(json.loads(printed)) == len(lines)

    check()


@hostile(200)
@given(text)
@example("<|endoftext|>")
def test_the_tokenizer_takes_any_text(message):
    tokenizer = mini_tokenizer() if not cache else cache[0]
    cache[:] = [tokenizer]
    ids = tokenizer.encode(message)
    assert all(0 <= index < tokenizer.eot_id for index in ids)
    readable = message.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.decode(ids) == readable
    assert tokenizer.encode_batch([message])[0] == ids


cache: list = []


# Training that goes wrong ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "lora", "head"])
def test_a_learning_rate_that_blows_up_is_one_line(good, method, tmp_path):
    """Which step it takes depends on the method; the number of steps here on one batch."""
    common = ["finetune", "--model", good / "base", "--data", good / "messages.tsv", "--quiet"]
    for batch_size in (8, 64):
        folder = tmp_path / str(batch_size)
        status, error = command(
            *common,
            "--method",
            method,
            "--lr",
            "1e38",
            "--epochs",
            3,
            "--batch-size",
            batch_size,
            "--out",
            folder,
        )
        assert status == 2
        assert re.search(r"loss became nan at step \d+ with learning rate [\d.e+]+; .*--lr", error)
        assert not (folder / "run.json").exists()
        kept = (folder / CHECKPOINT).exists()
        assert (str(folder / CHECKPOINT) if kept else "nothing was kept") in error
        if kept:
            with open_tensors(folder / CHECKPOINT) as reader:
                assert all(torch.isfinite(reader.get_tensor(name)).all() for name in reader.keys())


def test_pretraining_that_blows_up_is_one_line(good, tmp_path):
    (tmp_path / "corpus.txt").write_text("Once there was a king. " * 200 + "\n<|endoftext|>\n" * 9)
    status, error = command(
        *("pretrain", "--model", good / "base", "--corpus", tmp_path / "corpus.txt", "--quiet"),
        *("--steps", 9, "--batch-size", 2, "--evaluate-every", 3, "--lr", "1e38"),
        *("--validation", tmp_path / "corpus.txt", "--out", tmp_path / "out"),
    )
    assert status == 2
    assert re.search(r"loss became nan at step \d with learning rate", error)
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "--from", "x" * 5000, "hello"],
        ["evaluate", "--from", "x" * 5000, "--data", "x"],
        ["info", "--model", "x" * 5000],
        ["info", "--rank", 10**9],
        ["info", "--rank", 10**40],
        ["finetune", "--weights", "random", "--rank", 10**9, "--out"],
        ["finetune", "--weights", "random", "--seed", 10**30, "--out"],
        ["finetune", "--weights", "random", "--alpha", "nan", "--out"],
        ["finetune", "--weights", "random", "--lora-dropout", "nan", "--out"],
        ["finetune", "--weights", "random", "--lr", "nan", "--out"],
        ["finetune", "--weights", "random", "--targets", ",", "--out"],
        ["finetune", "--weights", "random", "--task", "\udcff", "--out"],
        ["generate", "--weights", "random", "--temperature", "nan", "x"],
        ["generate", "--weights", "random", "--top-p", "nan", "x"],
        ["generate", "--weights", "random", "--seed", "-1", "x"],
    ],
)
def test_options_that_no_one_can_mean(arguments, tmp_path):
    out = [tmp_path / "out"] if arguments[-1] == "--out" else []
    assert command(*arguments, *out)[0] == 2
