"""The folder that fine-tuning leaves: whole and loadable, or refused with one line."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import SMALL, change_record, sign, write_adapter, write_base, write_messages

from llm.data.batching import encode_messages
from llm.formats.base import load_tokenizer
from llm.formats.finetuned import load_finetuned
from llm.lora.methods import METHODS, LoRASettings
from llm.training.finetuning import FinetuneSettings, finetune, metrics_on, prepare_messages
from llm.utils.errors import InputError

RUN, ADAPTER = "run.json", "adapter.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tsv(tmp_path_factory):
    return write_messages(tmp_path_factory.mktemp("data") / "messages.tsv")


@pytest.fixture(scope="module")
def good(base, tsv, tmp_path_factory):
    return write_adapter(tmp_path_factory.mktemp("runs") / "good", base, tsv)


@pytest.fixture
def folder(good, tmp_path):
    return shutil.copytree(good, tmp_path / "folder")


def change_tensors(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("method", "targets"), [(m, None) for m in METHODS] + [("lora", "all"), ("lora", ["fc1"])]
)
def test_a_loaded_folder_measures_what_the_run_measured(method, targets, base, tsv, tmp_path):
    lora = LoRASettings(2, 8, targets) if targets else LoRASettings(2, 8)
    settings = FinetuneSettings(method, lora, str(base), data=str(tsv), epochs=1, lr=0.02)
    record = finetune(settings, tmp_path, device="cpu")
    torch.manual_seed(123)  # what is random must not come from here
    model, tokenizer, loaded = load_finetuned(tmp_path)
    data = prepare_messages(settings, tokenizer, SMALL.context_length)
    measured = dict(record.results["test"])
    measured.pop("f1_at_threshold")  # of the run's validation messages
    assert metrics_on(model, data.test) == measured
    assert metrics_on(model, data.validation) == record.results["validation"]
    assert loaded == record


def test_another_base_is_refused(folder, tmp_path):
    other = write_base(tmp_path / "other", seed=1)
    about = json.loads((folder / RUN).read_text())
    change_record(folder, base={**about["base"], "model": str(other)})
    with pytest.raises(InputError, match="has other weights than the one this folder was trained"):
        load_finetuned(folder)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content[:-100] + bytes(64) + content[-36:],
        lambda content: content[:-1],
        lambda content: content + b"\0",
    ],
    ids=["a flipped bit", "64 zeros", "cut", "longer"],
)
def test_numbers_that_are_not_those_of_the_run_are_refused(folder, spoil):
    path = folder / ADAPTER
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputError, match=f"{ADAPTER} is damaged .its SHA-256"):
        load_finetuned(folder)


def test_a_folder_from_before_the_hash_loads_with_one_line_of_warning(folder, good, capsys):
    model = load_finetuned(good)[0]
    assert capsys.readouterr().err == ""
    change_record(folder, weights_sha256=None)
    again, _, record = load_finetuned(folder)
    assert record.weights_sha256 is None
    printed = capsys.readouterr().err
    assert printed.startswith(f"warning: {folder}/run.json") and printed.count("\n") == 1
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_one_changed_weight_of_the_base_is_enough(folder, base, tmp_path):
    other = shutil.copytree(base, tmp_path / "other")
    change_tensors(other / "model.safetensors", lambda t: t["pos_emb.weight"][3, 3].add_(1e-4))
    about = json.loads((folder / RUN).read_text())
    change_record(folder, base={**about["base"], "model": str(other)})
    with pytest.raises(InputError, match="other weights"):
        load_finetuned(folder)


A = "body.trf_blocks.1.att.W_key.lora.A"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda t: t.pop(A), f"{A} is missing from .*{ADAPTER}"),
        (lambda t: t.pop("head.bias"), "head.bias is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra is not expected in"),
        (lambda t: t.update({A: torch.zeros(16, 3)}), rf"{A} has shape \[16, 3\], not \[16, 2\]"),
        (lambda t: t.update({A: torch.zeros(32)}), rf"{A} has shape \[32\], not \[16, 2\]"),
        (lambda t: t.update({A: torch.zeros(16, 2, dtype=torch.int32)}), f"{A} is I32, not float"),
        (lambda t: t.update({A: torch.zeros(16, 2, dtype=torch.float8_e5m2)}), f"{A} is F8"),
        (lambda t: t.update({A: torch.full((16, 2), torch.nan)}), f"{A} holds values that are not"),
        (
            lambda t: t.update({A: torch.full((16, 2), 1e300, dtype=torch.float64)}),
            f"{A} holds values that",
        ),
    ],
)
def test_a_tensor_that_is_wrong_is_named(folder, wrong, words):
    change_tensors(folder / ADAPTER, wrong)
    sign(folder)
    with pytest.raises(InputError, match=words):
        load_finetuned(folder)


@pytest.mark.parametrize("rank", [1, 3, 10**9, 10**30])
def test_a_rank_that_does_not_fit_is_refused_before_it_takes_memory(folder, rank):
    about = json.loads((folder / RUN).read_text())
    change_record(folder, lora={**about["lora"], "rank": rank})
    with pytest.raises(InputError, match="right rank|too large"):
        load_finetuned(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "format 2 is unknown"),
        ({"method": "magic"}, "magic"),
        ({"method": "full"}, "lora does not belong to the method full"),
        ({"method": "full", "lora": None}, "cannot read .*model.safetensors"),
        ({"method": None}, "method is missing"),
        ({"labels": ["ham"]}, "two different names"),
        ({"labels": ["ham", 1]}, "two different names"),
        ({"labels": ["ham", "ham"]}, "two different names"),
        ({"format": True}, "format True is unknown"),
        ({"base": {}}, "base is damaged"),
        ({"base": {"model": "mini", "weights": "random", "seed": True, "fingerprint": ""}}, "base"),
        ({"data": "all"}, "data is missing or damaged"),
        ({"record": []}, "record is missing or damaged"),
        ({"weights_sha256": 7}, "weights_sha256 is missing or damaged"),
        ({"wieghts_sha256": "7"}, "wieghts_sha256 cannot be read"),
        ({"lora": None}, "lora is damaged"),
        ({"lora": {"rank": 2, "targets": "all"}}, "rank, alpha or targets are missing"),
        ({"lora": {"rank": 2, "alpha": 4, "targets": "all", "rslora": 1}}, "rslora must be true"),
        ({"lora": {"rank": 2, "alpha": 4, "targets": [1]}}, "lora is damaged"),
        ({"lora": {"rank": 2, "alpha": 4, "targets": ["W_querry"]}}, "W_querry"),
        ({"lora": {"rank": 2, "alpha": "4", "targets": "all"}}, "alpha must be a number"),
        ({"lora": {"rank": 2, "alpha": 4, "targets": "all", "beta": 4}}, "beta"),
        ({"config": {}}, "expected exactly"),
        ({"config": {**SMALL.to_dict(), "n_layers": 3}}, "is missing from .*adapter"),
        ({"config": {**SMALL.to_dict(), "n_layers": 10**9}}, "n_layers"),
        ({"config": {**SMALL.to_dict(), "context_length": 47}}, "another shape"),
    ],
)
def test_a_description_that_is_wrong_is_refused(folder, changes, words):
    change_record(folder, **changes)
    with pytest.raises(InputError, match=words):
        load_finetuned(folder)


def test_a_vocabulary_that_is_too_large_for_the_model_is_refused(base):
    with pytest.raises(InputError, match="8192 tokens, the model only 61"):
        load_tokenizer(base, 61)


def test_a_folder_that_is_written_anew_is_never_half_old(folder, base, tsv, monkeypatch):
    """Cut short between its two files, the old description must not stand beside new tensors."""
    from llm.formats import finetuned

    def full(*arguments):
        raise InputError("disk full")

    monkeypatch.setattr(finetuned, "write_tensors", full)
    with pytest.raises(InputError, match="disk full"):
        write_adapter(folder, base, tsv, rank=3)
    with pytest.raises(InputError, match="no fine-tuned folder"):
        load_finetuned(folder)
    monkeypatch.undo()
    assert "checkpoint.safetensors" in os.listdir(folder)
    write_adapter(folder, base, tsv, rank=3, resume=True)
    assert load_finetuned(folder)[2].lora.rank == 3


def test_a_second_run_into_a_folder_can_be_resumed_too(folder, base, tsv, monkeypatch):
    """The first run's run.json is still there then, and must not stand in the way."""
    from llm.training import fitting

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "save_finetuned", killed)
    with pytest.raises(KeyboardInterrupt):
        write_adapter(folder, base, tsv, rank=3)
    monkeypatch.undo()
    assert load_finetuned(folder)[2].lora.rank == 2
    write_adapter(folder, base, tsv, rank=3, resume=True)
    assert load_finetuned(folder)[2].lora.rank == 3
    with pytest.raises(InputError, match="finished run with other options"):
        write_adapter(folder, base, tsv, rank=2, resume=True)


def test_messages_of_every_kind_are_answered(good):
    model, tokenizer, _ = load_finetuned(good)
    texts = ["", "x" * 100_000, "🎉", "שלום", "مرحبا", "\0\x1b[2J", "<|endoftext|>", "\ud800", "\n"]
    encoded = encode_messages(tokenizer, texts, None, SMALL.context_length)
    assert encoded.cut == 1
    assert all(0 < len(ids) <= SMALL.context_length for ids in encoded.ids)
    assert tokenizer.eot_id not in encoded.ids[6]
    assert torch.isfinite(model(*_batch(encoded))).all()


def _batch(encoded):
    from llm.data.batching import collate

    return collate(encoded, range(len(encoded)))[:2]
