"""The benchmark refuses in one line what it cannot measure, pairs what belongs together, and
measures: each suite runs, with tiny models."""

import io
import json
import math
import runpy
import statistics
import sys
from dataclasses import asdict, fields, replace
from types import SimpleNamespace

import pytest
import torch
from forked import call

from llm.benchmark import adapters, busy, cpu, gpu, prediction, runner, variants, worker
from llm.benchmark.gpu import growth
from llm.benchmark.peers import NEEDS, Job, missing, prepare
from llm.benchmark.peers_in_bits import random_classifier
from llm.benchmark.runner import describe, ratios, run_worker
from llm.lora.quantized_linear import quantized_layers
from llm.model.classifier import GPTClassifier
from llm.model.config import PRESETS, GPTConfig
from llm.model.parameters import parameter_counts
from llm.utils.paths import BUNDLED


def command_line(arguments: list[str]) -> None:
    """`python -m llm.benchmark ARGUMENTS`, in a child."""
    sys.argv[1:] = arguments
    runpy.run_module("llm.benchmark", run_name="__main__", alter_sys=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mini", "--rounds", "0"], ["--rounds", "at least 1"]),
        (["mini", "--only", "ours,theirs"], ["theirs", "peft-padded"]),
        (["busy", "--only", "compare,sleep"], ["sleep", "notebooks"]),
        (["inference", "--shape", "gpt9"], ["gpt9", "gpt2-xl"]),
        (["start", "--out", "{file}/below/a/file.json"], ["below"]),
        pytest.param(
            ["gpu"],
            ["no cuda device"],
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, words, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    arguments = [word.format(file=tmp_path / "file") for word in arguments]
    done = call(command_line, arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr


def test_ratios_pair_the_rounds():
    results = {"ours": [{"x": 1.0}, {"x": 9.0}, {"x": 2.0}], "peer": [{"x": 2.0}] * 3}
    assert ratios(results, "ours", "peer", lambda r: r["x"]) == {
        "median": 1.0,
        "low": 0.5,
        "high": 4.5,
    }
    assert ratios(results, "ours", "absent", lambda r: r["x"]) is None


def test_memory_grows_by_one_quantity_at_a_time():
    usual = {"shape": "gpt2", "method": "lora", "rank": 16, "batch_size": 8, "layers": 0}
    measured = {"memory_account": {"weights": 1}, "peak_memory_bytes": 2}
    changes = [{"rank": 64}, {"rank": 1}, {}, {"batch_size": 16}, {"layers": 3}, {"method": "full"}]
    changes += [{"shape": "gpt2-xl"}, {"rank": 4, "layers": 6}]  # in no series
    rows = growth([{**usual, **measured, **change} for change in changes])
    assert [row["rank"] for row in rows["lora by rank"]] == [1, 16, 64]
    assert [row["batch_size"] for row in rows["lora by batch_size"]] == [8, 16]
    assert [row["layers"] for row in rows["lora by layers"]] == [3, 12]
    assert "full by rank" not in rows


# The suites, on models so small that a step takes no time. What is measured is not asserted: what
# has to be true of any measurement is.

TINY = GPTConfig(vocab_size=50257, context_length=256, emb_dim=64, n_heads=2, n_layers=2)


def shrink_presets() -> None:
    """Every shape becomes a tiny one, of another depth each."""
    for layers, name in enumerate(PRESETS, start=1):
        PRESETS[name] = replace(TINY, n_layers=layers)


def work(given: str) -> None:
    """What the process does that `run_worker` starts: on tiny models, and without peers."""
    shrink_presets()
    NEEDS.update({family: (name, "absent_here", how) for family, (name, _, how) in NEEDS.items()})
    sys.stdin = io.StringIO(given)
    worker.main()


def forked_worker(jobs, threads, report, deadline=1e12) -> list:
    """`run_worker` without the wait for a new Python."""
    given = json.dumps({"jobs": [asdict(job) for job in jobs], "deadline": deadline})
    done = call(work, given)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    for result in results:
        report(result)
    return results


@pytest.fixture
def tiny_suites(monkeypatch):
    for name, config in PRESETS.items():
        monkeypatch.setitem(PRESETS, name, config)  # put back at the end
    shrink_presets()
    for module in (runner, gpu, variants):
        monkeypatch.setattr(module, "run_worker", forked_worker)


def options(**changed) -> SimpleNamespace:
    """As `llm.benchmark` reads them from its command line."""
    usual = {"out": None, "rounds": 2, "steps": 2, "threads": 1, "only": None, "messages": 9}
    usual |= {"shape": "mini", "seconds": 600.0, "quick": False}
    return SimpleNamespace(**usual | changed)


def check_measured(result: dict) -> None:
    """What is true of every job that was run in a child without a history of its own."""
    check_run(result)
    assert result["peak_memory_bytes"] > 0


def check_run(result: dict) -> None:
    """What is true of every job that was run."""
    job = {field.name: result[field.name] for field in fields(Job)}
    assert Job(**job).steps == len(result["seconds"]) == len(result["processor_seconds"])
    assert min(result["seconds"]) > 0 <= min(result["processor_seconds"])
    assert result["peak_memory_bytes"] >= 0
    per_second = result["batch_size"] * result["steps"] / sum(result["seconds"])
    assert result["examples_per_second"] == pytest.approx(per_second)
    assert result["batch_size"] * result["steps"] <= result["real_tokens"]
    assert all(math.isfinite(loss) for loss in result["losses"])


def check_spread(found: dict) -> None:
    assert 0 < found["low"] <= found["median"] <= found["high"]


def test_a_worker_measures_what_it_can_and_says_why_not():
    """The real process: a job; a peer that may be absent; a job that fails."""
    small = Job(layers=1, batch_size=2, steps=2, width=8, account=True)
    jobs = [small, replace(small, contender="book"), replace(small, shape="gpt9")]
    reported: list = []
    measured, peer, wrong = run_worker(jobs, 1, reported.append)
    assert reported == [measured, peer, wrong]
    check_run(measured)  # no peak is asked for: Linux hands down the one of its large parent
    assert measured["threads"] == 1
    account = measured["memory_account"]
    assert account["weights"] == 4 * sum(p.numel() for p in prepare(small).model.parameters())
    assert account["peak"] >= account["weights"] + account["optimizer"]
    if missing("book"):
        assert peer["skipped"] == missing("book")
        assert "pip install --no-deps llms-from-scratch" in peer["skipped"]
    else:
        check_run(peer)
    assert wrong["skipped"] == "KeyError: 'gpt9'"
    assert "KeyError" in describe(wrong) and " ms a step" in describe(measured)


def test_after_its_deadline_a_worker_skips():
    (late,) = forked_worker([Job()], 1, report=lambda result: None, deadline=1.0)
    assert late["skipped"] == "skipped: the time given to this benchmark is over"


@pytest.mark.parametrize("family", NEEDS)
def test_a_peer_that_is_not_installed_is_skipped_with_the_way_to_get_it(family, monkeypatch):
    distribution, _, command = NEEDS[family]
    monkeypatch.setitem(NEEDS, family, (distribution, "absent_here", command))
    for contender in (family, f"{family}-padded"):
        reason = f"{contender} is skipped: it needs `{command} {distribution}`"
        assert missing(contender) == reason
    assert missing("ours") is missing("naive") is None


@pytest.mark.skipif(missing("peft") is not None, reason="peft is not installed")
def test_padding_costs_a_peer_time_and_changes_no_loss(tiny_suites):
    """peft's three forms from one seed: the same losses, up to rounding and the form of GELU."""
    padded, plain, tanh = (
        worker.measure(Job(contender=name, batch_size=4, steps=2))["losses"]
        for name in ("peft-padded", "peft", "peft-tanh")
    )
    assert padded == pytest.approx(plain, abs=1e-5)
    assert tanh == pytest.approx(plain, abs=1e-3)
    assert all(math.isfinite(loss) for loss in plain) and plain[0] != plain[1]


def test_contenders_of_a_training_suite(tiny_suites):
    """The lesson's layer loses what the fused one loses, on the same messages."""
    content = cpu.mini(options(only="ours,naive,full,peft"))
    results, table = content["results"], content["ratios"]
    assert set(results) == {"ours", "naive", "full"}  # peft is not there, and left out
    for rounds in results.values():
        assert len(rounds) == 2
        for result in rounds:
            check_measured(result)
        assert rounds[0]["losses"] == rounds[1]["losses"]  # the same seed
    ours, naive, full = (results[name][0] for name in ("ours", "naive", "full"))
    assert naive["losses"] == pytest.approx(ours["losses"], abs=1e-5)
    assert full["losses"] != pytest.approx(ours["losses"], abs=1e-5)
    assert ours["real_tokens"] == naive["real_tokens"] == full["real_tokens"]
    assert set(table) == {"ours over naive", "ours over full", "naive over full"}
    for figures in table.values():
        for found in figures.values():
            check_spread(found)


def test_the_prefix_suite_trains_alike_on_kept_states(tiny_suites):
    content = cpu.prefix(options(rounds=1))
    for (run,) in content["results"].values():
        assert len(run["losses"]) == 20 and run["losses"][-1] < run["losses"][0]
    for name, found in content["ratios"].items():
        if name.endswith("largest difference of a loss"):
            assert found < 1e-5
        else:
            check_spread(found)
    assert len(content["ratios"]) == 2 * (2 * 2 + 1)


def test_the_inference_suite(tiny_suites):
    table = cpu.inference(options(rounds=1))["ratios"]
    assert len(table) == 3 * 2
    for found in table.values():
        check_spread(found)


def test_the_memory_suite_counts_what_grows(tiny_suites, tmp_path):
    content = cpu.memory(options(out=tmp_path / "memory.json"))
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
    by_rank = content["results"]["lora by rank"]
    # Gradients are four bytes a trained weight: rank * (inputs + outputs), summed, and the head.
    step = (by_rank[1]["gradients"] - by_rank[0]["gradients"]) / (16 - 4)
    assert [row["gradients"] for row in by_rank] == [
        by_rank[0]["gradients"] + step * (rank - 4) for rank in (4, 16, 64, 256)
    ]
    for name, rows in content["results"].items():
        quantity = name.rpartition(" ")[2]
        assert [row[quantity] for row in rows] == sorted(row[quantity] for row in rows)
        peaks = [row["peak"] for row in rows]
        assert peaks == sorted(peaks) and peaks[0] > 0, name
        if quantity == "batch_size":
            assert len({row["weights"] for row in rows}) == 1
            kept = [row["activations"] for row in rows]
            assert kept == sorted(set(kept)) and kept[0] > 0


def test_the_start_suite():
    content = cpu.start(options())
    assert {name: len(runs) for name, runs in content["results"].items()} == {
        "help": 5,
        "nothing": 5,
    }
    for name, median in content["ratios"].items():
        command, _, figure = name.partition(": ")
        values = [run[figure] for run in content["results"][command]]
        assert 0 < median == statistics.median(values)


def test_the_adapters_suite(monkeypatch, tmp_path):
    monkeypatch.setattr(adapters, "MESSAGES", 10)
    out = tmp_path / "adapters.json"
    given = {"rounds": 1, "tokens": 1, "device": "cpu", "peers_at_most": 2, "out": out}
    content = adapters.adapters(options(counts=[2], **given))
    assert json.loads(out.read_text())["ratios"] == content["ratios"]
    found = content["results"][2]
    (adapter,) = {path.stat().st_size for path in BUNDLED["spam"].glob("*.safetensors")}
    assert abs(found["adapter_bytes"] / 2 / adapter - 1) < 0.05  # the file has a header, too
    others = {"classify": ("one adapter", "peft", "merged"), "write": ("one adapter", "peft")}
    assert set(content["ratios"]) == {
        f"{kind}, 2 adapters: rate over {name}, {figure}"
        for kind, names in others.items()
        for name in names
        for figure in ("seconds", "processor_seconds")
    }
    for ratio in content["ratios"].values():
        check_spread(ratio)
    more = adapters.adapters(options(counts=[3], **given))["results"][3]["contests"]
    assert not any("peft" in name for name in more)
    assert adapters.adapters(options(counts=[2], **given | {"seconds": -1}))["left_out"] == [2]


def test_the_predict_suite(monkeypatch):
    monkeypatch.setattr(prediction, "COMMAND", ["-c", "import sys; assert sys.stdin.read()"])
    monkeypatch.setattr(prediction, "ONE", ["-c", "pass"])
    content = prediction.predict(options(rounds=1, messages=20))
    assert set(content["results"]) >= {"one message", "2 messages", "20 messages", "peft"}
    for ratio in content["ratios"].values():
        check_spread(ratio)


def test_the_busy_suite(monkeypatch, tmp_path):
    """The commands are stood in for, the busy loop runs; a file is kept as it goes."""
    started, written = [], []

    def run(arguments, *rest):
        if "a1_tokens" in arguments:
            raise busy.Failed("ended with status 1")
        started.append(arguments)

    monkeypatch.setattr(busy, "_run", run)
    monkeypatch.setattr(busy, "write_json", lambda path, content: written.append(str(content)))
    given = {"rounds": 2, "messages": 3, "only": "compare,notebooks", "whole": True}
    content = busy.busy(options(**given, out=tmp_path / "busy.json"))
    notebooks = sorted({path.stem for path in busy.NOTEBOOKS.glob("*.ipynb")} - {"a1_tokens"})
    names = ["compare", "compare, with its defaults", *(f"notebook {name}" for name in notebooks)]
    assert list(content["results"]) == names
    assert len(started) == len(written) == 2 * 2 * len(names)
    assert len(set(written)) == len(written)
    assert sum("06_touch_it" in command for command in started) == 0
    assert sum("make_touch.py" in command[0] for command in started) == 4
    for runs in content["results"].values():
        assert len(runs["alone"]) == len(runs["busy"]) == 2
    for ratio in content["ratios"].values():
        check_spread(ratio)


def test_the_gpu_suite_in_its_quick_form(tiny_suites, tmp_path, capsys):
    out = tmp_path / "gpu.json"
    content = gpu.gpu(options(quick=True, out=out))
    assert json.loads(out.read_text()) == json.loads(json.dumps(content))  # kept as it goes
    assert content["matrix_tflops"] > 0
    done = [result for result in content["results"] if "skipped" not in result]
    for result in done:
        check_measured(result)
    for result in content["results"]:
        family = result["contender"].partition("-")[0]
        if family in NEEDS:
            assert "is skipped: it needs `pip install" in result["skipped"]
        else:
            assert family in ("ours", "naive") and result in done
    assert "lora by layers" not in growth(done)  # tiny ones are no GPT-2
    for name, found in content["ratios"].items():
        assert name.startswith("ours, mini, lora, bf16 over ")
        low, high = found["time, fastest over slowest step and the reverse"]
        assert 0 < low <= found["time"] <= high
        assert found["peak memory"] > 0
    assert any("over naive, " in name for name in content["ratios"])
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(content["results"])


def test_the_variants_suite_in_its_quick_form(tiny_suites, tmp_path):
    out = tmp_path / "variants.json"
    content = variants.variants(options(quick=True, rounds=1, device="cpu", out=out))
    assert json.loads(out.read_text()) == json.loads(json.dumps(content))  # kept as it goes
    done = {result["name"]: result for result in content["results"] if "skipped" not in result}
    assert set(done) == {
        *("LoRA", "QLoRA nf4", "QLoRA int8", "DoRA", "DoRA, as it is read"),
        *("LoRA, recomputed", "QLoRA nf4, recomputed"),
    }
    for result in done.values():
        check_measured(result)
        assert result["memory_account"]["peak"] > 0
    weights = {name: result["memory_account"]["weights"] for name, result in done.items()}
    assert weights["QLoRA nf4"] < weights["QLoRA int8"] < weights["LoRA"] < weights["DoRA"]
    same = [done[name]["losses"] for name in ("DoRA", "DoRA, as it is read")]
    assert same[0] == pytest.approx(same[1], abs=1e-5)
    for found in content["ratios"].values():
        for figure in ("peak memory", "time", "processor time"):
            check_spread(found[figure])
    assert "mini, 2 messages: QLoRA nf4 over LoRA" in content["ratios"]
    assert "mini, 2 messages: QLoRA nf4, recomputed over LoRA, recomputed" in content["ratios"]


def test_a_card_meets_each_case_once_and_the_goal_first():
    """What is run on a GPU, without one: valid jobs, no two alike, those of the goal first."""
    processes = variants.processes(options(device="cuda"))
    jobs = [job for process in processes for job in process]
    assert len(set(jobs)) == len(jobs) > 20
    (first, second), (peer, *_), *_ = processes
    assert (first.quantize, second.quantize) == (None, "nf4")
    assert {job.shape for job in (first, second, peer)} == {"gpt2-xl"}
    assert peer.contender == "bitsandbytes"
    peers = {"peft-tanh", "bitsandbytes", "bitsandbytes-lean"}
    assert {job.contender for job in jobs} == {"ours", "naive"} | peers
    names = {(job.shape, job.batch_size, variants.name_of(asdict(job))) for job in jobs}
    assert len(names) == len(jobs)


@pytest.mark.skipif(missing("bitsandbytes") is not None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("lean", [False, True])
def test_peft_trains_beside_bitsandbytes_four_bits(tiny_suites, lean):
    """Every layer of the blocks is in four bits of the weights that were there, and no other."""
    from bitsandbytes.nn import Linear4bit

    name = "bitsandbytes-lean" if lean else "bitsandbytes"
    job = Job(contender=name, batch_size=2, steps=1, width=8, shape="gpt2", precision="bf16")
    quantised = prepare(replace(job, recompute="all"))
    layers = [layer for layer in quantised.model.modules() if isinstance(layer, Linear4bit)]
    assert len(layers) == 4 * PRESETS["gpt2"].n_layers
    assert all(layer.weight.quant_state.nested for layer in layers)
    trained = {name for name, p in quantised.model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "score" in name for name in trained)
    norms = [p for name, p in quantised.model.named_parameters() if "ln_1" in name]
    assert {p.dtype for p in norms} == {torch.bfloat16 if lean else torch.float32}
    plain = prepare(replace(job, contender="peft-tanh"))
    losses = [step.loss(0).item() for step in (quantised, plain)]
    assert losses[0] == pytest.approx(losses[1], abs=0.05) and losses[0] != losses[1]
    quantised.run(0)
    assert math.isfinite(quantised.run(1))


@pytest.mark.parametrize("kind", [None, "nf4", "int8"])
def test_a_random_classifier_is_whole_and_its_blocks_in_codes(kind):
    model = random_classifier(TINY, kind)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert len(quantized_layers(model)) == (6 * TINY.n_layers if kind else 0)
    assert parameter_counts(model)["total"] == parameter_counts(GPTClassifier(TINY))["total"]
    logits = model(torch.zeros(1, 3, dtype=torch.long), torch.tensor([3]))
    assert torch.isfinite(logits).all()
