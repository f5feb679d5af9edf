"""Pretraining: the loss falls, a resumed run and two processes end like one, a base comes out."""

import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from killing import run as run_command

from llm.data.corpus import Corpus, bits_per_byte
from llm.data.tokenizer import END_OF_TEXT, mini_tokenizer
from llm.formats.base import load_base, load_tokenizer
from llm.model.config import GPTConfig
from llm.model.parameters import fingerprint
from llm.training.loop import learning_rate
from llm.training.pretraining import NextTokenLoss, PretrainSettings, PretrainTask, pretrain
from llm.training.settings import TrainSettings
from llm.utils.errors import InputError
from llm.utils.files import read_json, read_tensors

ROOT = Path(__file__).parents[1]
TINY = GPTConfig(vocab_size=280, context_length=16, emb_dim=16, n_heads=2, n_layers=2)
QUICK = PretrainSettings(
    steps=12, batch_size=8, lr=1e-2, evaluate_every=4, log_every=1, document_starts=0.25
)
SENTENCES = [f"The {a} saw the {b} and said: hello!" for a in ["cat", "dog", "king"]
             for b in "mat sun tree hill".split()]  # fmt: skip  # noqa: SIM905


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    documents = [" ".join(SENTENCES[n % 12 :] + SENTENCES[: n % 5]) for n in range(200)]
    path.write_text("".join(f"{text}\n{END_OF_TEXT}\n" for text in documents))
    return path


def run(file, out, settings=QUICK, **more) -> dict:
    options = {"config": TINY, "train_vocabulary": True, "device": "cpu", "quiet": True}
    return pretrain([file], out, settings, **options | more)


@pytest.fixture(scope="module")
def unbroken(file, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    return out, run(file, out)


def weights(folder) -> dict[str, torch.Tensor]:
    return read_tensors(Path(folder) / "model.safetensors")[0]


def same(one, other) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_loss_falls_from_blind_guessing(unbroken):
    out, history = unbroken
    losses = [point["loss"] for point in history["curve"]]
    assert losses[0] == pytest.approx(math.log(TINY.vocab_size), abs=0.05)
    assert losses[-1] < losses[0] - 1
    bits = [entry["bits_per_byte"] for entry in history["evaluations"]]
    assert [entry["step"] for entry in history["evaluations"]] == [4, 8, 12]
    assert bits == sorted(bits, reverse=True)
    assert history["tokens_seen"] == 12 * 8 * 16
    about = read_json(out / "recipe.json")["corpus"]
    assert history["tokens_per_byte"] == about["tokens"] / about["bytes"]


def test_a_vocabulary_of_other_text_is_not_used_again(file, tmp_path):
    one_step = replace(QUICK, steps=1)
    out = tmp_path / "out"
    run(file, out, one_step)
    first = (out / "vocabulary.tiktoken").read_bytes()
    run(file, out, one_step)
    assert (out / "vocabulary.tiktoken").read_bytes() == first
    other = tmp_path / "other.txt"
    other.write_text(file.read_text().upper().replace(END_OF_TEXT.upper(), END_OF_TEXT))
    run(other, out, one_step)
    assert (out / "vocabulary.tiktoken").read_bytes() != first
    run(other, tmp_path / "fresh", one_step)
    fresh = (tmp_path / "fresh" / "vocabulary.tiktoken").read_bytes()
    assert (out / "vocabulary.tiktoken").read_bytes() == fresh


def test_the_loss_is_that_of_transformers():
    """The labels of transformers are shifted inside its model; ours before."""
    from twins import TINY as SHAPE
    from twins import hf_twin, random_ids, random_model

    model, windows = random_model(), random_ids(SHAPE, 3, SHAPE.context_length)
    expected = hf_twin(model)(windows, labels=windows).loss
    torch.testing.assert_close(NextTokenLoss(model)(windows), expected)


def test_parts_add_up_to_the_batch(unbroken):
    """What a process or a part of the batch contributes sums to the loss of the whole."""
    out, _ = unbroken
    corpus = Corpus(out / "corpus" / "train")
    task = PretrainTask(corpus, corpus, QUICK, TINY)
    model = NextTokenLoss(load_base(out))
    whole = task.loss(model, task.batch(5, 0, 1))
    for parts in (2, 4):
        shares = [task.loss(model, task.batch(5, part, parts)) for part in range(parts)]
        torch.testing.assert_close(sum(shares), whole)


def test_the_folder_is_a_base(unbroken):
    out, history = unbroken
    model = load_base(out)
    assert model.config == TINY
    assert sum(p.numel() for p in model.parameters()) == history["parameters"]
    assert all(tensor.dtype == torch.float16 for tensor in weights(out).values())
    validation = Corpus(out / "corpus" / "validation")
    assert bits_per_byte(model, validation) == history["validation"]
    tokenizer = load_tokenizer(out, TINY.vocab_size)
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"
    names = {path.name for path in out.iterdir() if path.is_file()} - {".lock"}
    assert names >= {"config.json", "model.safetensors", "log.json", "recipe.json"}
    assert read_json(out / "log.json") == json.loads(json.dumps(history))
    recipe = read_json(out / "recipe.json")
    assert recipe["settings"]["document_starts"] == 0.25
    assert recipe["corpus"]["sources"][0]["name"] == "corpus.txt"
    import hashlib

    for name, digest in read_json(out / "manifest.json").items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("at", [3, 4, 9])
def test_a_broken_and_resumed_run_ends_like_an_unbroken_one(
    unbroken, file, tmp_path, monkeypatch, at
):
    """Broken at step `at`, between checkpoints and on one; bit for bit the same weights."""
    draw = PretrainTask.batch

    def broken(self, step, part, parts):
        if step == at:
            raise RuntimeError("the power went off")
        return draw(self, step, part, parts)

    monkeypatch.setattr(PretrainTask, "batch", broken)
    with pytest.raises(RuntimeError, match="power"):
        run(file, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    monkeypatch.undo()
    history = run(file, tmp_path, resume=True)
    whole, expected = unbroken
    assert same(tmp_path, whole)
    assert history["curve"] == expected["curve"]
    assert history["evaluations"] == expected["evaluations"]


def test_resuming_with_other_options_is_refused(unbroken, file, tmp_path):
    run(file, tmp_path, PretrainSettings(steps=2, batch_size=4, evaluate_every=1))
    for other in (
        PretrainSettings(steps=2, batch_size=2, evaluate_every=1),
        PretrainSettings(steps=2, batch_size=4, evaluate_every=1, document_starts=0.5),
        PretrainSettings(steps=2, batch_size=4, evaluate_every=1, schedule_steps=9),
    ):
        with pytest.raises(InputError, match="resume with the same settings"):
            run(file, tmp_path, other, resume=True)


@pytest.mark.parametrize("when", ["training", "validation"])
def test_a_loss_that_is_not_a_number_is_refused(file, tmp_path, monkeypatch, when):
    if when == "training":
        loss = PretrainTask.loss
        monkeypatch.setattr(PretrainTask, "loss", lambda *a: loss(*a) * float("nan"))
    else:
        nan = {"loss": float("nan"), "bits_per_byte": float("nan")}
        monkeypatch.setattr(PretrainTask, "evaluate", lambda *a: nan)
    with pytest.raises(InputError, match="the loss became nan at step .* lower learning rate"):
        run(file, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


# From another base -------------------------------------------------------------------------------


def test_from_a_base_training_goes_on_where_it_stood(unbroken, file, tmp_path):
    base, before = unbroken
    settings = PretrainSettings(steps=4, batch_size=8, lr=1e-3, evaluate_every=2, log_every=1)
    history = pretrain([file], tmp_path, settings, from_base=base, device="cpu", quiet=True)
    assert history["curve"][0]["loss"] < before["curve"][0]["loss"] - 1
    assert load_base(tmp_path).config == TINY
    assert load_tokenizer(tmp_path).sha256 == load_tokenizer(base).sha256
    recipe = read_json(tmp_path / "recipe.json")
    assert recipe["from_base"]["fingerprint"] == fingerprint(load_base(base))
    assert not same(tmp_path, base)


def test_from_a_base_a_rate_of_next_to_nothing_leaves_its_weights(unbroken, file, tmp_path):
    """Shows that the stored weights are the start, not random ones."""
    base, _ = unbroken
    settings = PretrainSettings(steps=1, batch_size=2, lr=1e-12, evaluate_every=1)
    pretrain([file], tmp_path, settings, from_base=base, device="cpu", quiet=True)
    assert same(tmp_path, base)


def test_from_a_base_a_broken_run_resumes_and_another_base_is_refused(
    unbroken, file, tmp_path, monkeypatch
):
    base, _ = unbroken
    settings = PretrainSettings(steps=4, batch_size=4, lr=1e-3, evaluate_every=2)
    options = {"from_base": base, "device": "cpu", "quiet": True}
    pretrain([file], tmp_path / "whole", settings, **options)
    draw = PretrainTask.batch

    def broken(self, step, part, parts):
        if step == 3:
            raise RuntimeError("the power went off")
        return draw(self, step, part, parts)

    monkeypatch.setattr(PretrainTask, "batch", broken)
    with pytest.raises(RuntimeError, match="power"):
        pretrain([file], tmp_path / "broken", settings, **options)
    monkeypatch.undo()
    with pytest.raises(InputError, match="from_base"):
        other = options | {"from_base": tmp_path / "whole"}
        pretrain([file], tmp_path / "broken", settings, **other, resume=True)
    pretrain([file], tmp_path / "broken", settings, **options, resume=True)
    assert same(tmp_path / "whole", tmp_path / "broken")


def test_from_a_base_what_does_not_go_together_is_refused(unbroken, file, tmp_path):
    base, _ = unbroken
    with pytest.raises(InputError, match="has a vocabulary; it cannot learn another"):
        run(file, tmp_path, from_base=base)
    with pytest.raises(InputError, match="is the base to go on from.*another folder"):
        run(file, base, from_base=base, train_vocabulary=False)
    with pytest.raises(InputError, match="absent"):
        run(file, tmp_path, from_base=tmp_path / "absent", train_vocabulary=False)


def test_a_longer_schedule_ends_before_it_is_over():
    """The first 26 rates of a run of 40 steps."""
    short = TrainSettings(steps=26, schedule_steps=40, lr=1.0)
    long = TrainSettings(steps=40, lr=1.0)
    for step in range(26):
        assert learning_rate(short, step) == learning_rate(long, step)
    with pytest.raises(InputError, match="ends before the training"):
        TrainSettings(steps=40, schedule_steps=26, lr=1.0)


# Settings and vocabularies -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"document_starts": 1.5}, "document_starts is a share from 0 to 1, not 1.5"),
        ({"document_starts": float("nan")}, "document_starts is a share from 0 to 1, not nan"),
        ({"warmup_share": -0.1}, "warmup_share is a share from 0 to 1, not -0.1"),
        ({"warmup_share": float("nan")}, "warmup_share is a share from 0 to 1, not nan"),
        ({"batch_size": 0}, "a batch of 0 windows"),
        ({"batch_size": 6, "accumulate": 4}, "a batch of 6 windows .* 4 equal parts"),
    ],
)
def test_bad_settings_are_refused(bad, message):
    with pytest.raises(InputError, match=message):
        PretrainSettings(**bad)


def test_a_vocabulary_of_another_size_is_refused(file, tmp_path):
    with pytest.raises(InputError, match="8192 tokens, the model 280"):
        run(file, tmp_path, train_vocabulary=False)


def test_accumulating_gives_the_same_weights(unbroken, file, tmp_path):
    """In two parts sums are added in another order, so the same up to rounding."""
    from dataclasses import replace

    history = run(file, tmp_path, replace(QUICK, accumulate=2))
    losses = [[point["loss"] for point in h["curve"]] for h in (history, unbroken[1])]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    whole = weights(unbroken[0])
    for name, tensor in weights(tmp_path).items():
        torch.testing.assert_close(tensor.float(), whole[name].float(), atol=2e-3, rtol=0)


def test_text_speak_goes_into_training_alone(file, tmp_path):
    settings = PretrainSettings(steps=1, batch_size=2, evaluate_every=1, text_speak=True)
    run(file, tmp_path, settings)
    train = Corpus(tmp_path / "corpus" / "train")
    validation = Corpus(tmp_path / "corpus" / "validation")
    assert (train.n_documents, validation.n_documents) == (2 * 198, 2)


# Several processes, and the command line ---------------------------------------------------------


def torchrun(*arguments, processes: int):
    """The documented command."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", processes]
    command += ["--master-port", port, "-m", "llm", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=environment
    )


def test_two_processes_end_like_one(unbroken, file, tmp_path):
    """The same global batch; gradients are added in another order, so the same up to rounding."""
    base, _ = unbroken
    arguments = ["pretrain", "--corpus", file, "--from-base", base, "--steps", 6, "--lr", "1e-2"]
    arguments += ["--batch-size", 8, "--evaluate-every", 3, "--device", "cpu", "--json"]
    arguments += ["--document-starts", 0.25]
    done = torchrun(*arguments, "--out", tmp_path / "two", processes=2)
    assert done.returncode == 0, done.stderr
    log = json.loads(done.stdout)  # printed once, by the first process
    settings = PretrainSettings(
        steps=6, batch_size=8, lr=1e-2, evaluate_every=3, document_starts=0.25
    )
    one = pretrain([file], tmp_path / "one", settings, from_base=base, device="cpu", quiet=True)
    assert log["validation"]["loss"] == pytest.approx(one["validation"]["loss"], abs=1e-3)
    expected = weights(tmp_path / "one")
    start = weights(base)
    for name, tensor in weights(tmp_path / "two").items():
        torch.testing.assert_close(tensor.float(), expected[name].float(), atol=2e-3, rtol=0)
    moved = max((expected[n] - start[n]).abs().max().item() for n in start)
    assert moved > 0.02  # ten times the tolerance
    assert read_json(tmp_path / "two" / "recipe.json")["processes"] == 2


def test_pretrain_and_generate_on_the_command_line(file, tmp_path, capsys):
    """With the shape of a folder and the vocabulary of mini."""
    shape = tmp_path / "shape"
    shape.mkdir()
    tiny = GPTConfig(8192, 16, 16, 2, 1)
    (shape / "config.json").write_text(json.dumps(tiny.to_dict()))
    arguments = ["pretrain", "--corpus", file, "--model", shape, "--out", tmp_path / "base"]
    arguments += ["--steps", 3, "--schedule-steps", 5, "--batch-size", 4, "--evaluate-every", 3]
    arguments += ["--text-speak", "--device", "cpu", "--validation", file]
    done = run_command(arguments, tmp_path)
    assert done.status == 0, done.stderr
    assert "bits per byte of unseen text" in done.stdout
    assert "error" not in done.stderr and "%" not in done.stderr  # no bar where nobody looks
    assert (tmp_path / "base" / "curve.png").read_bytes()[:4] == b"\x89PNG"
    recipe = read_json(tmp_path / "base" / "recipe.json")
    assert recipe["settings"]["schedule_steps"] == 5
    assert recipe["corpus"]["with_text_speak"] is True
    assert recipe["validation"]["with_text_speak"] is False
    assert load_tokenizer(tmp_path / "base").sha256 == mini_tokenizer().sha256

    from llm.cli.parser import main

    said = []
    for _ in range(2):
        arguments = ["generate", "--model", str(tmp_path / "base"), "The cat", "--tokens", "5"]
        assert main([*arguments, "--device", "cpu", "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]  # the same seed, the same text
    assert said[0]["prompt"] == "The cat" and said[0]["tokens"] <= 5


def test_bits_of_a_text_on_the_command_line(unbroken, file, capsys):
    from llm.cli.parser import main

    out, history = unbroken
    arguments = ["bits", "--model", out, "--text", file, "--train", file, "--device", "cpu"]
    assert main([*map(str, arguments), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fingerprint"] == fingerprint(load_base(out))
    assert found["text"]["bytes"] == file.stat().st_size - 200 * len(f"{END_OF_TEXT}\n")
    assert found["bits_per_byte"]["base"] == pytest.approx(
        history["validation"]["bits_per_byte"], rel=0.1
    )
    assert found["bits_per_byte"]["xz_9"] < 1  # two hundred times the same sentences
    assert main(["bits", "--text", str(file) + ".absent"]) == 2
    assert capsys.readouterr().err.startswith("error: cannot read")


def test_a_corpus_that_is_not_there_is_one_line(tmp_path, capsys):
    from llm.cli.parser import main

    absent = tmp_path / "absent.txt"
    assert main(["pretrain", "--corpus", str(absent), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: cannot read") and error.count("\n") == 1


def test_the_bundled_log_is_what_the_figure_reads():
    """Training and validation stand in one unit: a nat a token of the log makes so many bits."""
    from llm.figures.studies import pretraining_figure

    folder = ROOT / "data" / "mini"
    log, recipe = read_json(folder / "log.json"), read_json(folder / "recipe.json")
    steps = [point["step"] for point in log["curve"]]
    assert steps == sorted(set(steps))
    settings, config = recipe["stages"][0]["settings"], recipe["config"]
    assert log["tokens_seen"] == steps[-1] * settings["batch_size"] * config["context_length"]
    assert log["tokens_per_byte"] == recipe["corpus"]["tokens"] / recipe["corpus"]["bytes"]

    figure = pretraining_figure(log)
    (axes,) = figure.axes  # no second scale
    training, validation = axes.get_lines()
    tokens_a_byte = 35_182_796 / 129_741_662
    assert training.get_ydata()[-1] == pytest.approx(
        log["curve"][-1]["loss"] * tokens_a_byte / math.log(2)
    )
    assert validation.get_ydata()[-1] == log["evaluations"][-1]["bits_per_byte"]
    assert axes.get_ylabel() == "bits per byte"
    legend = axes.get_legend().get_window_extent()
    for line in (training, validation):  # no line runs through the legend
        points = axes.transData.transform(line.get_xydata())
        assert not any(legend.contains(*point) for point in points)


def test_the_bundled_recipe_is_the_default():
    """What data/README.md tells of `mini` is what `python -m llm pretrain` does by itself."""
    settings = read_json(ROOT / "data" / "mini" / "recipe.json")["stages"][0]["settings"]
    usual = asdict(PretrainSettings().on("cuda"))
    assert settings | {"evaluate_every": usual["evaluate_every"]} == usual
