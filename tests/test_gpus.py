"""The suite for several cards, with processes on a CPU in their place."""

import json
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forked import ended, start

from llm.benchmark import gpus

PROCESSES = 4


def work(out: Path) -> None:
    torch.set_num_threads(1)
    gpus.gpus(SimpleNamespace(quick=True, steps=2, seconds=600, out=out))


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("gpus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    team = []
    for rank in map(str, range(PROCESSES)):
        environment = {"WORLD_SIZE": str(PROCESSES), "RANK": rank, "LOCAL_RANK": rank}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment["CUDA_VISIBLE_DEVICES"] = ""
        output = folder / f"output{rank}"
        output.mkdir()
        out = folder / f"{rank}.json"
        team.append((start(work, out, output=output, environment=environment), output))
    for process, output in team:
        process.join(timeout=240)
        done = ended(process, output)
        assert done.returncode == 0, done.stderr
    assert not any((folder / f"{rank}.json").exists() for rank in range(1, PROCESSES))
    return json.loads((folder / "0.json").read_text())


def test_every_number_of_cards_is_measured(content):
    measured = {(row["method"], row["scaling"], row["cards"]) for row in content["results"]}
    ways = [(method, scaling) for method in ("lora", "full") for scaling in ("weak", "strong")]
    assert measured == {(*way, cards) for way in ways for cards in (1, 2, 4)}


def test_what_is_exchanged_is_a_number_for_each_trained_one(content):
    for row in content["results"]:
        expected = 4 * row["trained_numbers"] if row["cards"] > 1 else 0
        assert row["exchanged_bytes"] == expected, row
        assert len(row["seconds"]) == 2 and row["messages_per_second"] > 0


def test_ratios_are_of_the_work_done_in_the_same_time():
    def row(cards, messages, seconds):
        case = {"shape": "gpt2", "method": "lora", "scaling": "weak", "cards": cards}
        return {**case, "messages": messages, "seconds": seconds}

    found = gpus.ratios([row(1, 64, [1.0, 1.0, 1.2]), row(2, 128, [1.0, 1.25, 1.25])])
    assert found == {
        "gpt2, lora, weak, 2 cards over one": {
            "median": pytest.approx(1.6),
            "low": pytest.approx(1.6),
            "high": pytest.approx(2.4),
        }
    }
