"""Learning to write: documents, the loss by hand, the folder, and what is refused."""

import json
import math
import random
import shutil

import pytest
import torch
import torch.nn.functional as F
from small import SMALL, write_adapter, write_base, write_messages
from test_cli import refused, run

from llm.data.batching import Encoded
from llm.data.documents import (
    EncodedDocuments,
    encode_documents,
    load_texts,
    masked,
    read_documents_of,
)
from llm.data.messages import load_messages
from llm.data.splits import split
from llm.data.tokenizer import mini_tokenizer
from llm.formats.finetuned import load_finetuned
from llm.inference.log_probabilities import (
    bits_per_byte_metrics,
    log_probabilities,
    measure_documents,
)
from llm.lora.methods import apply_method
from llm.lora.settings import LoRASettings
from llm.model.gpt import GPTModel
from llm.model.layouts import lay_out
from llm.model.parameters import trainable_state
from llm.training.finetuning import finetune
from llm.training.loop import train
from llm.training.settings import FinetuneSettings, TrainSettings
from llm.training.writing import WritingTask
from llm.utils.errors import InputError

MINI = mini_tokenizer()


def documents(count=11, longest=20, seed=0) -> EncodedDocuments:
    """Random documents of a vocabulary of 61, whose last token, 60, stands around each."""
    draw = random.Random(seed)
    ids = [
        [60, *(draw.randrange(60) for _ in range(draw.randrange(longest))), 60]
        for _ in range(count)
    ]
    return EncodedDocuments(
        Encoded(ids, [-1] * count, 0), list(range(count)), [len(i) for i in ids]
    )


def by_hand(model, ids) -> torch.Tensor:
    """Nats of one document, its tokens in a row by themselves: softmax, look up, add."""
    row = torch.tensor(ids)
    probabilities = torch.softmax(model(row[None, :-1])[0].double(), -1)  # (tokens, vocab_size)
    return -probabilities[torch.arange(len(ids) - 1), row[1:]].log().sum()


# Documents ---------------------------------------------------------------------------------------


def test_the_messages_of_a_label_are_those_of_the_classification(tmp_path):
    """The same three parts, so that a voice and a classifier may be measured side by side."""
    tsv = write_messages(tmp_path / "messages.tsv")
    parts = split(load_messages(tsv), seed=3)
    texts = load_texts(["spam"], tsv, split_seed=3)
    for name in ("train", "validation", "test"):
        assert getattr(texts, name) == [m.text for m in getattr(parts, name) if m.label]
    both = load_texts(["ham", "spam"], tsv, split_seed=3)
    assert both.test == [m.text for m in parts.test]


def test_a_file_is_cut_at_its_markers_or_else_at_blank_lines(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffone\r\nline\r\n\r\n \t\r\ntwo\n\n\nthrée\n".encode())
    assert read_documents_of(path)[0] == ["one\nline", "two", "thrée"]
    path.write_text("one\n\nstill one<|endoftext|>two\n<|endoftext|>\n \n<|endoftext|>")
    assert read_documents_of(path)[0] == ["one\n\nstill one", "two"]


def test_a_files_parts_share_no_document_and_hang_on_the_seed(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"document {n % 50}" for n in range(70)))
    first, again, other = (load_texts([path], split_seed=seed) for seed in (1, 1, 2))
    parts = [first.train, first.validation, first.test]
    assert [len(part) for part in parts] == [35, 5, 10]
    assert len(set(sum(parts, []))) == 50
    assert (first.train, first.test) == (again.train, again.test)
    assert first.test != other.test
    assert first.record["duplicates_removed"] == 20
    few, fewer = (load_texts([path], split_seed=1, limit=n) for n in (20, 5))
    assert set(fewer.train) < set(few.train) < set(first.train)
    assert few.test == first.test
    assert len(load_texts([path], all_documents=True).train) == 50


def test_masked_digits_are_in_no_part(tmp_path):
    assert masked("Call 08-٣९ now²") == "Call 00-00 now²"
    texts = load_texts(["ham", "spam"], write_messages(tmp_path / "m.tsv"), mask_digits=True)
    assert texts.record["digits_masked"]
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"number {n}" for n in range(30)))
    texts = load_texts([path], mask_digits=True)
    written = "".join(texts.train + texts.validation + texts.test)
    assert set(filter(str.isdigit, written)) == {"0"}


@pytest.mark.parametrize("context", [2, 3, 7, 100])
def test_every_token_is_predicted_once_however_short_the_context(context):
    texts = ["a document of some length, longer than a window", "ok", "x" * 40]
    encoded = encode_documents(MINI, texts, context)
    for place, text in enumerate(texts):
        mine = [ids for ids, owner in zip(encoded.pieces.ids, encoded.document) if owner == place]
        assert all(2 <= len(ids) <= context for ids in mine)
        assert all(one[-1] == other[0] for one, other in zip(mine, mine[1:]))
        whole = mine[0][:1] + [token for ids in mine for token in ids[1:]]
        assert whole == [MINI.eot_id, *MINI.encode(text), MINI.eot_id]
    assert encoded.n_bytes == [47, 2, 40]


# The loss ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_the_loss_is_the_mean_over_all_tokens_worked_out_by_hand(tiny, packed, monkeypatch):
    """In both layouts, and padded wider than need be, a document stands as if alone."""
    model, found = GPTModel(tiny), documents()
    width = 1 if packed else 8
    task = WritingTask(model, found, found, batch_size=4, seed=0, width=width)
    monkeypatch.setattr(
        "llm.training.writing.lay_out",
        lambda *inputs, **more: lay_out(*inputs, packed=packed, **more),
    )
    batch = task.batch(1)
    lengths = batch.batch.lengths.tolist()
    rows = [ids[:n].tolist() for ids, n in zip(batch.batch.ids, lengths)]
    assert len(rows) == 4
    expected = sum(by_hand(model, ids) for ids in rows) / sum(len(ids) - 1 for ids in rows)
    assert float(task.loss(model, batch).detach()) == pytest.approx(float(expected), rel=1e-5)


def test_parts_of_a_batch_add_up_to_it(tiny):
    model, found = GPTModel(tiny), documents()
    task = WritingTask(model, found, found, batch_size=4, seed=0)
    whole = task.loss(model, task.batch(2))
    for parts in (2, 3, 7):  # the last batch has three documents
        shares = [task.loss(model, task.batch(2, part, parts)) for part in range(parts)]
        assert float(sum(shares)) == pytest.approx(float(whole), rel=1e-5)


@pytest.mark.parametrize("method", ["full", "last_block", "lora"])
def test_the_gradient_is_that_of_pytorchs_cross_entropy(tiny, method):
    model, found = GPTModel(tiny), documents()
    torch.manual_seed(1)
    apply_method(model, method, LoRASettings(rank=2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora.B"):
                parameter.normal_()
    task = WritingTask(model, found, found, batch_size=5, seed=0)
    ids, lengths, _ = task.batch(0).batch
    task.loss(model, task.batch(0)).backward()
    ours = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    targets = ids.masked_fill(torch.arange(ids.shape[1]) >= lengths[:, None], -100)[:, 1:]
    F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), targets.flatten()).backward()
    assert ours.keys() == trainable_state(model).keys()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(ours[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_a_model_that_writes_has_no_head_to_train(tiny):
    with pytest.raises(InputError, match="no head"):
        apply_method(GPTModel(tiny), "head")
    with pytest.raises(InputError, match="no head"):
        FinetuneSettings("head", task="writing", text=["ham"])


# Bits a byte -------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_log_probabilities_are_those_of_each_document_alone(tiny, packed, monkeypatch):
    monkeypatch.setattr(
        "llm.inference.log_probabilities.lay_out", lambda *inputs: lay_out(*inputs, packed=packed)
    )
    model, found = GPTModel(tiny).eval(), documents()
    expected = torch.stack([-by_hand(model, ids) for ids in found.pieces.ids]).detach()
    for budget in (1, 50, 10_000):
        torch.testing.assert_close(
            log_probabilities(model, found, budget), expected, atol=1e-4, rtol=1e-5
        )


def test_bits_a_byte_of_a_model_that_knows_nothing():
    """Scores that are all alike: log2 of the vocabulary a token, whatever the text."""
    config = SMALL
    model = GPTModel(config).eval()
    with torch.no_grad():
        model.final_norm.scale.zero_()  # and the shift is zero from the start
    texts = ["a few words of text", "ok, see you", "word " * 60]
    encoded = encode_documents(MINI, texts, config.context_length)
    metrics = measure_documents(model, encoded)
    tokens = [len(MINI.encode(text)) + 1 for text in texts]
    each = [13 * n / len(text) for n, text in zip(tokens, texts)]  # 8,192 tokens are 13 bits
    mean = sum(each) / 3
    assert metrics["bits_per_byte"] == pytest.approx(13 * sum(tokens) / len("".join(texts)))
    assert metrics["bits_per_byte_mean"] == pytest.approx(mean)
    spread = math.sqrt(sum((value - mean) ** 2 for value in each) / 2)
    assert metrics["bits_per_byte_std"] == pytest.approx(spread)
    assert metrics["loss"] == pytest.approx(math.log(8192))
    assert (metrics["documents"], metrics["bytes"]) == (3, len("".join(texts)))
    assert bits_per_byte_metrics(torch.tensor([-1.0]), [3])["bits_per_byte_std"] is None


# Runs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tsv(tmp_path_factory):
    return write_messages(tmp_path_factory.mktemp("data") / "messages.tsv")


def options(base, tsv, **changes) -> FinetuneSettings:
    usual = {
        "lora": LoRASettings(rank=2),
        "model": str(base),
        "task": "writing",
        "text": ["spam"],
        "data": str(tsv),
        "epochs": 2,
        "batch_size": 4,
        "lr": 0.02,
    }
    return FinetuneSettings(**{**usual, **changes})


@pytest.fixture(scope="module")
def voice(base, tsv, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "voice"
    finetune(options(base, tsv), folder, device="cpu")
    return folder


@pytest.mark.parametrize("method", ["full", "last_block", "lora"])
def test_a_loaded_folder_measures_what_the_run_measured(method, base, tsv, tmp_path):
    keep = "best" if method == "full" else "last"
    settings = options(base, tsv, method=method, text=["spam", "ham"], keep=keep)
    record = finetune(settings, tmp_path, device="cpu")
    model, tokenizer, loaded = load_finetuned(tmp_path, writes=True)
    assert type(model) is GPTModel
    assert loaded == record
    texts = load_texts(settings.text, tsv)
    for part in ("validation", "test"):  # the former was measured while training
        encoded = encode_documents(tokenizer, getattr(texts, part), SMALL.context_length)
        assert measure_documents(model, encoded) == record.results[part]
    assert record.results["base_unchanged"] == (method == "lora")
    history = json.loads((tmp_path / "history.json").read_text())
    assert history["evaluations"][-1]["loss"] < history["evaluations"][0]["loss"]


class Killed(Exception):
    pass


def test_a_resumed_run_ends_like_an_unbroken_one(tiny, tmp_path):
    found = documents(count=20)
    plan = TrainSettings(steps=12, lr=0.01, evaluate_every=5)

    def build():
        torch.manual_seed(0)
        model = GPTModel(tiny)
        apply_method(model, "lora", LoRASettings(rank=2))
        return model, WritingTask(model, found, found, batch_size=8, seed=0)

    unbroken, task = build()
    history = train(unbroken, task, plan, tmp_path / "a")
    broken, task = build()
    batch = task.batch

    def kill(step, *parts):
        if step == 7:
            raise Killed
        return batch(step, *parts)

    task.batch = kill
    with pytest.raises(Killed):
        train(broken, task, plan, tmp_path / "b")
    resumed, task = build()
    again = train(resumed, task, plan, tmp_path / "b", resume=True)
    for name, value in trainable_state(unbroken).items():
        assert torch.equal(trainable_state(resumed)[name], value), name
    assert again["evaluations"] == history["evaluations"]


def test_a_finished_run_is_resumed_only_with_its_own_options(voice, base, tsv, tmp_path):
    folder = shutil.copytree(voice, tmp_path / "again")
    settings = options(base, tsv)
    assert (
        finetune(settings, folder, resume=True).settings
        == json.loads((folder / "run.json").read_text())["settings"]
    )
    for changes in ({"text": ["ham"]}, {"mask_digits": True}):
        with pytest.raises(InputError, match="other options"):
            finetune(options(base, tsv, **changes), folder, resume=True)


def test_the_commands_of_a_voice(voice, tmp_path):
    """Measure, merge, measure again, write: the merged model is the same model."""
    text = tmp_path / "text.txt"
    text.write_text("WIN a free alpha prize\n\nsee you at beta tonight\n")
    done = run("evaluate", "--from", voice, "--data", text, "--json", "--device", "cpu")
    found = json.loads(done.stdout)
    assert found["documents"] == 2
    assert found["bytes"] == len("WIN a free alpha prizesee you at beta tonight")
    assert found["digits_masked"] is False
    merged = tmp_path / "merged"
    assert run("merge", "--from", voice, "--out", merged).returncode == 0
    again = run("evaluate", "--from", merged, "--data", text, "--json", "--device", "cpu")
    again = json.loads(again.stdout)
    assert again["bits_per_byte"] == pytest.approx(found["bits_per_byte"], rel=1e-5)
    greedy = ("--temperature", "0", "--tokens", "12", "--json", "--device", "cpu")
    texts = [
        json.loads(run("generate", "--from", folder, "WIN a", *greedy).stdout)["text"]
        for folder in (voice, merged)
    ]
    assert texts[0] == texts[1]
    line = run("evaluate", "--from", voice, "--data", text, "--device", "cpu").stdout
    assert line.startswith("2 documents, 45 bytes: ")


def test_a_voice_trained_on_masked_digits_is_measured_on_masked_digits(base, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"call {n} now" for n in range(100, 112)))
    settings = options(base, None, data=None, text=[str(path)], mask_digits=True, all_messages=True)
    record = finetune(settings, tmp_path / "voice", device="cpu")
    assert "test" not in record.results
    model, tokenizer, record = load_finetuned(tmp_path / "voice")
    assert record.masks_digits
    encoded = encode_documents(tokenizer, ["call 000 now"] * 12, SMALL.context_length)
    expected = measure_documents(model, encoded)["bits_per_byte"]
    done = run("evaluate", "--from", tmp_path / "voice", "--data", path, "--json")
    assert json.loads(done.stdout)["bits_per_byte"] == pytest.approx(expected)
    assert json.loads(done.stdout)["digits_masked"]


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no text"),
        (b" \n\n \n", "holds no text"),
        (b"\xff\xfe\x00a", "not UTF-8"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not UTF-8"),
        (b"a\0b\n\nc\n\nd", "zero bytes"),
        (b"one document\nof two lines", "1 documents are too few"),
        (b"one\n\none\n\ntwo", "2 documents are too few"),
    ],
)
def test_a_text_that_cannot_be_learned_from_is_one_line(content, words, base, voice, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    start = ("finetune", "--task", "writing", "--model", base, "--out", tmp_path / "out", "--text")
    refused(run(*start, path), words)
    assert not (tmp_path / "out" / "run.json").exists()
    if "too few" not in words:
        refused(run("evaluate", "--from", voice, "--data", path), words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "ham, spam, or a list of text files (--text)"),
        (["--text", "spam", "ham.txt"], "not both"),
        (["--text", "nowhere.txt"], "cannot read the text file nowhere.txt"),
        (["--text", "spam", "--pool", "last"], "pool is for telling messages apart"),
        (["--text", "spam", "--lm-loss", "1"], "lm_loss is for telling messages apart"),
        (["--text", "spam", "--balanced"], "balanced is for telling messages apart"),
        (["--text", "spam", "--method", "head"], "no head to train (--method lora)"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(arguments, words, base, tmp_path):
    start = ("finetune", "--task", "writing", "--model", base, "--out", tmp_path / "out")
    refused(run(*start, *arguments), words)


def test_a_folder_of_the_wrong_task_is_one_line(voice, base, tsv, tmp_path):
    classifier = write_adapter(tmp_path / "classifier", base, tsv)
    settings = json.loads((classifier / "run.json").read_text())["settings"]
    assert not {"text", "mask_digits"} & set(settings)  # as in folders from before voices
    refused(run("predict", "--from", voice, "hello"), "writes", f"generate --from {voice}")
    refused(run("generate", "--from", classifier, "x"), "tells messages apart", "predict --from")
    refused(run("generate", "--from", voice, "--model", "gpt2", "x"), "names its base", "--model")
    refused(run("finetune", "--text", "ham", "--out", tmp_path / "x"), "text is for a model that")
    about = json.loads((voice / "run.json").read_text())
    folder = shutil.copytree(voice, tmp_path / "voice")
    (folder / "run.json").write_text(json.dumps({**about, "labels": ["ham", "spam"]}))
    refused(run("generate", "--from", folder, "x"), "labels must be none for a model that writes")
    (folder / "run.json").write_text(
        json.dumps({**about, "task": "spam", "labels": ["ham", "spam"]})
    )
    refused(run("predict", "--from", folder, "x"), "tensor")
