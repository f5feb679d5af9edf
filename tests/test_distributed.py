"""Two processes on one batch, against one process on the same batch."""

import json
import socket
from pathlib import Path

import pytest
import torch
from forked import ended, start
from safetensors.torch import load_file

from llm.data.batching import Encoded
from llm.lora.methods import LoRASettings, apply_method
from llm.model.classifier import GPTClassifier
from llm.model.config import GPTConfig
from llm.training import distributed
from llm.training.classification import ClassificationTask
from llm.training.loop import train
from llm.training.settings import TrainSettings
from llm.utils.files import write_json, write_tensors

STEPS = 4
CASES = [("full", 1), ("lora", 1), ("lora", 2)]  # the method, and the parts of a batch


def work(cases: list[tuple[str, int]], folder: Path) -> None:
    """What each process does: for each case a few steps on the same eight messages a step, in
    float64, so that the order of a sum shows in the last digits only."""
    torch.set_num_threads(1)
    with distributed.team():
        for method, accumulate in cases:
            torch.manual_seed(0)
            model = GPTClassifier(GPTConfig(50, 16, 16, 2, 2)).double()
            start = apply_method(model, method, LoRASettings(rank=2, alpha=4))
            draw = torch.Generator().manual_seed(1)
            lengths = torch.randint(1, 17, (26,), generator=draw).tolist()  # the last batch has two
            ids = [torch.randint(0, 50, (length,), generator=draw).tolist() for length in lengths]
            messages = Encoded(ids, [index % 2 for index in range(26)], 0)
            task = ClassificationTask(model, messages, messages, 8, 0, start)
            settings = TrainSettings(steps=STEPS, lr=1e-2, accumulate=accumulate)
            history = train(model, task, settings)
            trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
            name = f"{method}{accumulate}-{distributed.rank()}"
            write_tensors(folder / f"{name}.safetensors", trained, {})
            write_json(folder / f"{name}.json", history)


def found(folder: Path, method: str, accumulate: int, rank: int) -> tuple[dict, dict]:
    """The weights and the history of a process."""
    name = folder / f"{method}{accumulate}-{rank}"
    return load_file(f"{name}.safetensors"), json.loads(Path(f"{name}.json").read_text())


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    work([("full", 1), ("lora", 1)], folder)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """All cases in one start of two processes, which find each other as torchrun's do."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    team = []
    for rank in ("0", "1"):
        environment = {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment["CUDA_VISIBLE_DEVICES"] = ""
        output = folder / f"output{rank}"
        output.mkdir()
        process = start(work, CASES, folder, output=output, environment=environment)
        team.append((process, output))
    for process, output in team:
        process.join(timeout=120)
        done = ended(process, output)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("method", ["full", "lora"])
def test_two_processes_end_with_the_weights_of_one(method, one, two):
    alone, curve = found(one, method, 1, rank=0)
    (first, history), (second, _) = (found(two, method, 1, rank) for rank in (0, 1))
    for name, weight in alone.items():
        assert torch.equal(first[name], second[name]), name  # processes never drift apart
        torch.testing.assert_close(first[name], weight, atol=1e-10, rtol=1e-10)
    losses = [point["loss"] for point in curve["curve"]]
    assert [point["loss"] for point in history["curve"]] == pytest.approx(losses, abs=1e-6)
    # What is exchanged a step is one number for each trained weight, and nothing else.
    trained_bytes = sum(weight.numel() * 8 for weight in alone.values())
    assert history["exchanged_bytes"] == STEPS * trained_bytes
    assert "exchanged_bytes" not in curve


def test_accumulating_exchanges_once_a_step(one, two):
    alone, _ = found(one, "lora", 1, rank=0)
    weights, history = found(two, "lora", 2, rank=0)
    for name, weight in alone.items():
        torch.testing.assert_close(weights[name], weight, atol=1e-10, rtol=1e-10)
    assert history["exchanged_bytes"] == STEPS * sum(w.numel() * 8 for w in alone.values())
