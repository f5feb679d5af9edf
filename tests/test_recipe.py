"""The recipe of fine-tuning: what the head reads, the language-model loss, BPE-dropout, the end."""

import json
import math
from random import Random

import pytest
import torch
import torch.nn.functional as F
from forked import studies_worker
from small import write_base, write_messages
from twins import TINY, hf_twin, random_ids, randomise

from llm.cli.parser import main
from llm.data.batching import Encoded, encode_messages
from llm.data.bpe import encode, encode_with_dropout
from llm.data.tokenizer import mini_tokenizer
from llm.inference.evaluation import best_threshold, f1_at
from llm.lora.methods import apply_method
from llm.model.classifier import GPTClassifier
from llm.studies.summary import paired_difference
from llm.training.classification import ClassificationTask
from llm.training.next_token import next_token_loss
from llm.training.settings import RECIPES, FinetuneSettings
from llm.utils.errors import InputError

LENGTHS = [5, 1, 9]
MESSAGES = Encoded(
    [random_ids(TINY, 1, n, seed=n)[0].tolist() for n in LENGTHS], labels=[0, 1, 1], cut=0
)


def classifier(pool="last", packed=None) -> GPTClassifier:
    model = GPTClassifier(TINY, pool=pool)
    randomise(model)
    model.packed = packed
    return model.double().eval()


def task(model, **settings) -> ClassificationTask:
    return ClassificationTask(model, MESSAGES, MESSAGES, 3, 0, **settings)


@pytest.mark.parametrize("packed", [True, False])
def test_the_mean_is_of_the_message_and_not_of_its_padding(packed):
    model = classifier("mean", packed)
    (batch, *_) = task(model).batch(0)
    answers = model(batch.ids, batch.lengths)
    for row, length, answer in zip(batch.ids, batch.lengths.tolist(), answers, strict=True):
        hidden = model.body.hidden_states(row[None, :length])[0]  # (tokens, emb_dim)
        torch.testing.assert_close(answer, model.head(hidden.mean(0)), atol=1e-10, rtol=0)


@pytest.mark.parametrize("packed", [True, False])
def test_the_language_model_loss_is_that_of_transformers(packed):
    """Summed over tokens and divided by how many there are to predict in the whole batch."""
    model = classifier("mean", packed)
    twin = hf_twin(model.body)
    weighted = task(model, lm_loss=0.5).batch(0)
    plain = task(model).loss(model, task(model).batch(0))
    found = task(model, lm_loss=0.5).loss(model, weighted)
    total, places = 0.0, 0
    for row, length in zip(weighted.batch.ids, weighted.batch.lengths.tolist(), strict=True):
        if length > 1:
            ids = row[None, :length]
            total += twin(ids, labels=ids).loss.item() * (length - 1)
            places += length - 1
    assert found.item() == pytest.approx(plain.item() + 0.5 * total / places, abs=1e-6)


@pytest.mark.parametrize("pool", ["last", "mean"])
@pytest.mark.parametrize("method", ["head", "last_block"])
def test_what_frozen_blocks_make_is_computed_once_and_is_the_same(method, pool):
    model = classifier(pool)
    start = apply_method(model, method)
    kept, through = task(model, start=start, lm_loss=0.5), task(model, lm_loss=0.5)
    if method == "head":  # a frozen body cannot follow the language-model loss
        through = task(model)
    losses = [t.loss(model, t.batch(0)) for t in (kept, through)]
    torch.testing.assert_close(*losses, atol=1e-10, rtol=0)


def test_micro_batches_add_up_with_the_language_model_loss():
    model = classifier("mean")
    whole = task(model, lm_loss=0.5)
    shares = [whole.loss(model, whole.batch(0, part, 4)) for part in range(4)]
    torch.testing.assert_close(sum(shares), whole.loss(model, whole.batch(0)))


@pytest.mark.parametrize("frozen", [True, False])
def test_the_next_token_loss_is_cross_entropy_and_so_are_its_gradients(frozen, monkeypatch):
    monkeypatch.setattr("llm.training.next_token.TOKENS", 3)  # several parts, the last one smaller
    torch.manual_seed(0)
    x = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    embedding = torch.randn(11, 5, dtype=torch.float64, requires_grad=not frozen)
    targets = torch.tensor([3, 0, -100, 10, 7, 7, -100, 1])
    inputs = [x] if frozen else [x, embedding]
    losses = (
        next_token_loss(x, embedding, targets),
        F.cross_entropy(x @ embedding.T, targets, reduction="sum"),
    )
    torch.testing.assert_close(*losses)
    ours, theirs = (torch.autograd.grad(0.3 * loss, inputs) for loss in losses)
    torch.testing.assert_close(ours, theirs)


TEXT = "WINNER!! Claim your prize, call 0909 8790 123 now"


def test_bpe_dropout_between_none_and_all():
    tokenizer = mini_tokenizer()
    usual = encode(TEXT, tokenizer.ranks)
    assert encode_with_dropout(TEXT, tokenizer.ranks, 0.0, Random(0)) == usual
    assert encode_with_dropout(TEXT, tokenizer.ranks, 1.0, Random(0)) == list(TEXT.encode())
    draws = [encode_with_dropout(TEXT, tokenizer.ranks, 0.1, Random(seed)) for seed in range(50)]
    assert {tokenizer.decode(ids) for ids in draws} == {TEXT}
    assert len({tuple(ids) for ids in draws}) > 10
    assert len(usual) < sum(map(len, draws)) / 50 < 1.5 * len(usual)


def test_one_merge_is_left_out_as_often_as_was_asked_for():
    """A word of two letters has one merge, so its share of single letters is the dropout."""
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"hi": 256}
    random = Random(0)
    cut = [encode_with_dropout("hi", ranks, 0.3, random) for _ in range(4000)]
    share = sum(len(ids) == 2 for ids in cut) / 4000
    assert share == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / 4000))


def test_messages_are_cut_anew_for_every_epoch_and_alike_for_every_seed():
    def cut(seed: str) -> list:
        return encode_messages(mini_tokenizer(), [TEXT] * 3, None, 64, 0.1, seed).ids

    assert cut("0 1") == cut("0 1")
    assert cut("0 1") != cut("0 2")
    calls = []

    def cut_anew(epoch: int) -> Encoded:
        calls.append(epoch)
        return MESSAGES

    some = ClassificationTask(classifier(), MESSAGES, MESSAGES, 2, 0, cut_anew=cut_anew)
    for step in range(4):  # two steps an epoch
        some.batch(step)
    assert calls == [0, 1]


def test_the_threshold_with_the_best_f1():
    positive = torch.tensor([0.1, 0.2, 0.3, 0.35, 0.9], dtype=torch.float64)
    labels = [0, 0, 1, 1, 1]
    threshold = best_threshold(labels, positive)
    assert 0.2 < threshold <= 0.3
    assert f1_at(labels, positive, threshold) == 1.0
    assert f1_at(labels, positive, 0.5) == pytest.approx(2 * 1 * (1 / 3) / (1 + 1 / 3))


def test_paired_differences():
    found = paired_difference([0.5, 0.9, 0.7], [0.4, 0.8, 0.6])
    assert [found[key] for key in ("mean", "low", "high")] == pytest.approx([0.1] * 3)
    wide = paired_difference([0.0, 1.0] * 5, [0.0] * 10)
    assert wide["mean"] == pytest.approx(0.5)
    assert wide["low"] == pytest.approx(0.2, abs=0.05)  # 10 draws of a coin
    assert wide["high"] == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"pool": "first"}, "mean or last"),
        ({"keep": "worst"}, "last or best"),
        ({"bpe_dropout": 1.0}, "BPE-dropout"),
        ({"lm_loss": -1.0}, "weight of a loss"),
    ],
)
def test_odd_settings_are_refused(setting, words):
    with pytest.raises(InputError, match=words):
        FinetuneSettings(**setting)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("runs")
    base, data = write_base(folder / "base"), write_messages(folder / "messages.tsv", 90)
    usual = ["finetune", "--model", base, "--data", data, "--epochs", 1, "--rank", 2, "--quiet"]
    usual += ["--json", "--device", "cpu", "--lr", 0.05]
    return {"folder": folder, "usual": usual, "base": base, "data": data}


def finetuned(runs, name: str, capsys, *options) -> dict:
    arguments = [*runs["usual"], "--out", runs["folder"] / name, *options]
    assert main([str(argument) for argument in arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_plain_recipe_is_its_four_options(runs, capsys):
    plain = finetuned(runs, "plain", capsys, "--recipe", "plain")
    assert {key: plain["settings"][key] for key in RECIPES["plain"]} == RECIPES["plain"]
    usual = finetuned(runs, "usual", capsys)
    assert usual["settings"]["pool"] == usual["pool"] == "mean"
    mixed = finetuned(runs, "mixed", capsys, "--recipe", "plain", "--lm-loss", 0.25)
    assert mixed["settings"]["lm_loss"] == 0.25
    assert mixed["settings"]["pool"] == "last"


def test_a_loaded_folder_pools_as_it_was_trained(runs, capsys):
    finetuned(runs, "pooled", capsys)
    message = "WIN a free alpha prize, call now!"
    arguments = ["predict", "--from", str(runs["folder"] / "pooled"), "--json", message]
    assert main(arguments) == 0
    answer = json.loads(capsys.readouterr().out)[0]["probability"]
    record = runs["folder"] / "pooled" / "run.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "pool": "last"}))
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)[0]["probability"] != answer


def test_a_mean_cannot_be_exported_and_the_error_says_what_can(runs, capsys):
    finetuned(runs, "mean", capsys)
    out = runs["folder"] / "out"
    arguments = ["export", "--from", str(runs["folder"] / "mean"), "--format", "transformers"]
    assert main([*arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "last token" in error
    assert not out.exists()


def test_training_on_all_messages_measures_nothing(runs, capsys):
    record = finetuned(runs, "all", capsys, "--all-messages")
    assert "test" not in record["record"] and "validation" not in record["record"]
    assert record["data"]["train"] == record["data"]["messages"] == 90


def test_a_comparison_over_splits(runs, capsys, monkeypatch):
    monkeypatch.setattr("llm.studies.worker.fresh_process", studies_worker)
    out = runs["folder"] / "compared"
    arguments = ["compare", "--methods", "head,lora", "--splits", 2, "--out", out]
    arguments += [*runs["usual"][1:-2]]
    assert main([str(argument) for argument in arguments]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [(r["method"], r["split_seed"]) for r in results["runs"]] == [
        ("head", 0),
        ("lora", 0),
        ("head", 1),
        ("lora", 1),
    ]
    assert [run["split_seed"] for run in results["baseline_runs"]] == [0, 1]
    of = {(r["method"], r["split_seed"]): r["test"]["f1"] for r in results["runs"]}
    difference = sum(of["lora", split] - of["head", split] for split in (0, 1)) / 2
    assert results["paired"]["lora - head"]["f1_mean"] == pytest.approx(difference)
    words = "tfidf_logistic_regression"
    mean = sum(run[words]["f1"] for run in results["baseline_runs"]) / 2
    assert results["baselines"][words]["f1"] == pytest.approx(mean)
    assert (out / "paired.png").stat().st_size > 5000


def test_labels_alone_have_rates_of_their_own():
    assert FinetuneSettings().lr == 5e-3
    assert FinetuneSettings(**RECIPES["plain"]).lr == FinetuneSettings(lm_loss=0.0).lr == 1.5e-3
    assert FinetuneSettings(method="last_block", lm_loss=0.0).lr == 1e-3
    assert FinetuneSettings(method="full", lm_loss=0.0).lr == FinetuneSettings(method="full").lr
    assert FinetuneSettings(lm_loss=0.0, lr=7e-3).lr == 7e-3
