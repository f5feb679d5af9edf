"""The two recorded studies: what is chosen, by what, and that nothing is trained twice."""

import json

import pytest

from llm.data.tokenizer import mini_tokenizer
from llm.figures.studies import learning_curve_figure, search_figure
from llm.figures.style import save_figure
from llm.formats.record import BaseRecord, RunRecord
from llm.model.config import GPTConfig
from llm.studies import learning_curve as curves
from llm.studies import learning_rates as searches
from llm.studies.learning_curve import BASELINE, learning_curve, schedule
from llm.studies.learning_rates import mean_and_std, search_learning_rates
from llm.training.finetuning import FinetuneSettings
from llm.utils.files import write_json

TINY = GPTConfig(vocab_size=8192, context_length=32, emb_dim=8, n_heads=2, n_layers=1)


@pytest.fixture
def settings(tmp_path):
    """Few messages, and a model so small that a run takes a second."""
    write_json(tmp_path / "tiny" / "config.json", TINY.to_dict())
    mini_tokenizer().save(tmp_path / "tiny")
    lines = [f"ham\tsee you at {chr(97 + i)}{chr(97 + i // 3)} later" for i in range(25)]
    lines += [f"spam\twin cash {chr(97 + i)}{chr(122 - i)} now" for i in range(15)]
    (tmp_path / "messages.tsv").write_text("\n".join(lines) + "\n")
    return FinetuneSettings(
        model=str(tmp_path / "tiny"),
        weights="random",
        data=str(tmp_path / "messages.tsv"),
        epochs=1,
        batch_size=8,
    )


def canned(scores):
    """A fine-tuning that only looks its validation measures up, and has measured no test."""

    def finetune(settings, folder, resume, device):
        assert resume  # a search that was interrupted goes on
        f1, loss = scores[settings.method, settings.lr][settings.seed]
        return RunRecord(
            TINY,
            settings.method,
            settings.task,
            ["ham", "spam"],
            BaseRecord(settings.model, settings.weights, settings.seed, ""),
            device=device,
            results={"validation": {"f1": f1, "loss": loss}},
        )

    return finetune


def test_the_highest_mean_validation_f1_wins_and_the_test_is_not_looked_at(tmp_path, monkeypatch):
    scores = {
        ("lora", 1e-4): [(0.90, 0.3), (0.90, 0.3)],
        ("lora", 1e-3): [(0.99, 0.1), (0.80, 0.5)],  # the best single run, a worse mean
        ("lora", 1e-2): [(0.85, 0.1), (0.85, 0.1)],
        ("head", 1e-2): [(0.70, 0.4), (0.80, 0.4)],
        ("head", 1e-1): [(0.75, 0.3), (0.75, 0.3)],  # the same mean, a lower loss
    }
    monkeypatch.setattr(searches, "finetune", canned(scores))
    grids = {"lora": (1e-4, 1e-3, 1e-2), "head": (1e-2, 1e-1)}
    out = tmp_path / "rates.json"
    result = search_learning_rates(
        grids, [0, 1], FinetuneSettings(), tmp_path, out, "cpu", report=lambda line: None
    )
    assert {m: found["chosen"] for m, found in result["methods"].items()} == {
        "lora": 1e-4,
        "head": 1e-1,
    }
    assert json.loads(out.read_text()) == json.loads(json.dumps(result))
    row = result["methods"]["lora"]["grid"][1]
    assert row["validation_f1"] == [0.99, 0.80]
    assert row["validation_f1_mean"] == pytest.approx(0.895)
    assert row["validation_f1_std"] == pytest.approx(0.19 / 2**0.5)
    png = save_figure(search_figure(result), tmp_path / "rates.png")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_search_that_is_repeated_trains_nothing_anew(settings, tmp_path):
    def search():
        return search_learning_rates(
            {"head": (1e-2, 1e-1)},
            [0],
            settings,
            tmp_path / "work",
            tmp_path / "rates.json",
            "cpu",
            report=lambda line: None,
        )

    first = search()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("run.json")}
    assert len(written) == 2
    assert search() == first
    assert written == {path: path.stat().st_mtime_ns for path in written}


def test_learning_curve(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "schedule", lambda messages: {"epochs": 1, "batch_size": 8})
    lines = []
    result = learning_curve(
        settings,
        tmp_path / "work",
        tmp_path / "curve.json",
        sizes=(10, None),
        seeds=[0, 1],
        methods=("head",),
        weights=("random",),
        device="cpu",
        report=lines.append,
    )
    assert len(result["points"]) == len(lines) == 2 * 2 * 2  # seeds, sizes, head and baseline
    summary = {(row["method"], row["messages"]): row for row in result["summary"]}
    assert set(summary) == {(m, n) for m in ("head", BASELINE) for n in (10, 28)}
    for (method, size), row in summary.items():
        mine = [
            point["f1"]
            for point in result["points"]
            if (point["method"], point["messages"]) == (method, size)
        ]
        assert len(mine) == row["seeds"] == 2
        assert row["f1_mean"] == pytest.approx(sum(mine) / 2)
    assert json.loads((tmp_path / "curve.json").read_text())["points"] == result["points"]
    png = save_figure(learning_curve_figure(result), tmp_path / "curve.png")
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("messages", [25, 50, 100, 250, 500, 1000, 3133])
def test_small_sets_get_enough_steps(messages):
    chosen = schedule(messages)
    steps = chosen["epochs"] * -(-messages // chosen["batch_size"])
    assert steps >= 100 and chosen["epochs"] >= 5


def test_one_seed_has_no_deviation():
    assert mean_and_std([0.5]) == {"mean": 0.5, "std": None}
