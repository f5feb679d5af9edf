"""The suite for several cards, with processes on a CPU in their place."""

import json
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forked import ended, start

from llm.benchmark import gpus
from llm.figures.cards import scaling_figure

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
    assert sorted(path.name for path in folder.glob("[0-9].*")) == ["0.json", "0.png"]
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


def test_the_figure_draws_what_was_measured_on_one_card_and_more(content):
    skipped = {"shape": "gpt2-xl", "method": "full", "scaling": "strong", "cards": 4}
    figure = scaling_figure([*content["results"], {**skipped, "skipped": "out of memory"}])
    weak, strong, exchanged, share = figure.axes
    for panel, lines in ((weak, 3), (strong, 3), (exchanged, 2), (share, 2)):  # two with the ideal
        assert len(panel.lines) == lines
    by_bytes = sorted(list(line.get_ydata())[0] for line in exchanged.lines)
    trained = {row["method"]: row["trained_numbers"] for row in content["results"]}
    assert by_bytes == sorted(4 * numbers / 1e6 for numbers in trained.values())


def test_one_card_alone_is_a_figure_without_lines(content):
    figure = scaling_figure([row for row in content["results"] if row["cards"] == 1])
    assert [len(panel.lines) for panel in figure.axes] == [1, 1, 0, 0]
