"""The two recorded studies: what is chosen, by what, and that nothing is trained twice."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from llm.data.tokenizer import mini_tokenizer
from llm.figures.studies import ladder_figure, learning_curve_figure, search_figure
from llm.figures.style import save_figure
from llm.formats.record import BaseRecord, RunRecord
from llm.lora.settings import LoRASettings
from llm.model.config import GPTConfig
from llm.studies import compare as comparisons
from llm.studies import ladder as ladders
from llm.studies import learning_curve as curves
from llm.studies import learning_rates as searches
from llm.studies import variant_tables
from llm.studies.compare import compare
from llm.studies.learning_curve import BASELINE, learning_curve, schedule
from llm.studies.learning_rates import search_learning_rates
from llm.studies.summary import mean_and_std
from llm.studies.worker import run_in_fresh_process
from llm.training.finetuning import finetune
from llm.training.settings import LEARNING_RATES, FinetuneSettings
from llm.utils.errors import InputError
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
    """A fine-tuning that only looks its validation metrics up, and has measured no test."""

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
        grids={"head": (1e-2, 3e-2)},
        weights=("random",),
        device="cpu",
        report=lines.append,
    )
    assert len(result["points"]) == 2 * 2 * 2  # seeds, sizes, head and baseline
    assert len(lines) == 2 * 2 * 2 + 2  # and the rate that was chosen for each size
    for row in result["rates"]:
        losses = {cell["learning_rate"]: cell["held_out_loss"] for cell in row["grid"]}
        assert losses[row["chosen"]] == min(losses.values())
        folder = tmp_path / "work" / f"head-random-{row['messages']}-lr{row['chosen']:g}-seed0"
        assert (folder / "run.json").exists()
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
    assert steps >= 100 and chosen["epochs"] >= 2


def test_one_seed_has_no_deviation():
    assert mean_and_std([0.5]) == {"mean": 0.5, "std": None}


def test_settings_come_back_from_json(settings):
    lora = LoRASettings(3, 6.5, ["W_query"], 0.25, rslora=True)
    chosen = replace(settings, method="head", lora=lora, limit=7, balanced=True, seed=3)
    assert FinetuneSettings.from_dict(json.loads(json.dumps(asdict(chosen)))) == chosen


def test_a_run_in_a_fresh_process_is_the_run_and_counts_its_own_memory(settings, tmp_path):
    here = finetune(settings, tmp_path / "here", device="cpu")
    torch.ones(1 << 27)  # half a GB in this process, which is not to count in another
    there = run_in_fresh_process(settings, tmp_path / "there", device="cpu")
    written = json.loads((tmp_path / "there" / "run.json").read_text())
    assert {**written, **there} == written
    assert there["record"]["peak_memory_bytes"] > 0
    assert there["record"]["test"] == here.results["test"]
    assert there["settings"] == json.loads(json.dumps(here.settings))
    weights = [(tmp_path / name / "adapter.safetensors").read_bytes() for name in ("here", "there")]
    assert weights[0] == weights[1]


def test_an_error_of_a_worker_comes_back_in_its_words(settings, tmp_path, capfd):
    done = tmp_path / "done"
    finetune(settings, done, device="cpu")
    with pytest.raises(InputError, match="done holds a finished run with other options") as raised:
        run_in_fresh_process(replace(settings, seed=1), done, resume=True, device="cpu")
    assert raised.value.settings == ("out",)
    assert "\n" not in str(raised.value)
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""  # the parent says it, the worker does not


def test_a_comparison_gives_each_method_its_own_learning_rate_or_the_one_for_all(
    settings, tmp_path, monkeypatch
):
    rates, variants = [], []

    def run(settings, folder, resume, device, quiet):
        rates.append((settings.method, settings.lr, settings.seed))
        variants.append(settings.lora.variant)
        measured = {"accuracy": 1.0, "f1": 1.0}
        columns = ("trainable_parameters", "total_parameters", "saved_bytes", "train_seconds")
        columns += ("examples_per_second", "peak_memory_bytes")
        record = {"method": settings.method, "test": measured, "validation": measured}
        record |= {"seed": settings.seed, "split_seed": settings.split_seed}
        record |= dict.fromkeys(columns, 1)
        base = {"model": "tiny", "weights": "random"}
        return {"record": record, "base": base, "device": "cpu", "data": {}, "settings": {}}

    monkeypatch.setattr(comparisons, "run_in_fresh_process", run)
    methods = ["full", "lora"]
    compare(methods, [0, 1], settings, tmp_path, device="cpu", quiet=True)
    compare(methods, [0], settings, tmp_path, lr=LEARNING_RATES["full"], device="cpu", quiet=True)
    own = [(method, LEARNING_RATES[method], seed) for seed in (0, 1) for method in methods]
    assert rates == own + [(method, LEARNING_RATES["full"], 0) for method in methods]
    results = compare(["lora", "dora"], [0], settings, tmp_path, device="cpu", quiet=True)
    assert rates[-2:] == own[1:2] * 2 and variants[-2:] == ["lora", "dora"]
    assert [run["method"] for run in results["runs"]] == ["lora", "dora"]  # as it was called


def test_the_section_of_variants_is_made_of_what_was_measured(tmp_path, monkeypatch):
    def result(name, peak, seconds, **more):
        usual = {"shape": "gpt2", "batch_size": 8, "name": name, "seconds": seconds}
        return {**usual, "peak_memory_bytes": peak << 20, **more}

    monkeypatch.setattr(variant_tables, "DATA", tmp_path)
    assert variant_tables.variants_section() == ""
    (tmp_path / "benchmarks").mkdir()
    account = {"peak": 90 << 20, "passing": 3 << 20}
    content = {
        "device": "NVIDIA H100",
        "versions": {"torch": "2.11", "peft": None},
        "results": [
            result("LoRA", 100, [0.1, 0.2, 0.4], memory_account=account),
            result("QLoRA nf4", 45, [0.2, 0.3, 0.3]),
            result("peft", 0, [], skipped="OutOfMemoryError: 80 | GiB\nand more"),
        ],
    }
    write_json(tmp_path / "benchmarks" / "variants_h100.json", content)
    lines = variant_tables.variants_section().splitlines()
    assert lines[0].startswith("### ") and "--device cuda" in lines[4]
    assert lines[6] == (
        "| GPT-2 124M, 8 messages a step | account | measured peak | share | a step | share |"
    )
    assert lines[8:] == [
        "| LoRA | 93 MiB | 100 MiB | 1.00 | 200.0 ms | 1.00 (0.25 to 4.00) |",
        "| QLoRA nf4 |  | 45 MiB | 0.45 | 300.0 ms | 1.50 (0.50 to 3.00) |",
        "| peft | not measured: OutOfMemoryError: 80 / GiB | | | | |",
    ]
    found = (("a", 4, 1), ("b", 2, 2), ("a", 4, 2), ("b", 3, 6))  # two rounds
    rounds = [result(name, peak, [seconds]) for name, peak, seconds in found]
    (table,) = variant_tables.variant_tables({"results": rounds}, "seconds")
    assert table.endswith("| 0.62 (0.50 to 0.75) | 4,000.0 ms | 2.50 (2.00 to 3.00) |")


def test_every_rung_of_the_ladder_has_the_rate_that_validation_chose(tmp_path, monkeypatch):
    def canned_run(settings, folder, resume, device):
        assert resume and not folder.exists()
        plain = settings.pool == "last"  # the first rungs do best at their lowest rate
        lowest = settings.lr == min(ladders.RATES[settings.method])
        f1 = 0.9 + 0.01 * settings.split_seed
        validation, test = (f1, f1 - 0.5) if lowest == plain else (f1 - 0.1, f1)
        scores = {"accuracy": 0.5, "roc_auc": 0.5}
        record = {"validation": {"f1": validation, **scores}, "test": {"f1": test, **scores}}
        common = {"device": "cpu", "torch": "2", "base": {}, "data": {}}
        return {"record": {**record, "train_seconds": 1.0}, **common}

    monkeypatch.setattr(ladders, "run_in_fresh_process", canned_run)
    result = ladders.ladder([0, 1], tmp_path / "work", tmp_path / "ladder.json")
    assert [row["rung"] for row in result["rows"]] == [*ladders.RUNGS] * 2
    for row in result["rows"]:
        rates = ladders.RATES[row["method"]]
        plain = row["rung"] in ("plain", "last epoch")
        assert (row["learning_rate"] == min(rates)) == plain
        assert row["test_f1_mean"] == pytest.approx(0.405)  # of the chosen rate, not of the best
        assert [tried["learning_rate"] for tried in row["rates"]] == list(rates)
    assert json.loads((tmp_path / "ladder.json").read_text()) == result
    assert len(ladder_figure(result).axes) == 2
