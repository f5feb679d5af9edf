"""The benchmark refuses in one line what it cannot measure; ratios pair what belongs together."""

import subprocess
import sys

import pytest
import torch

from llm.benchmark.gpu import growth
from llm.benchmark.runner import ratios


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mini", "--rounds", "0"], ["--rounds", "at least 1"]),
        (["mini", "--only", "ours,theirs"], ["theirs", "peft-padded"]),
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
    command = [sys.executable, "-m", "llm.benchmark", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
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
