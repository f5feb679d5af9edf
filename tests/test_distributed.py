"""Two processes on one batch, against one process on the same batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
STEPS = 4  # as in the program below

# What each process runs: a few steps on the same eight messages a step, in float64, so that the
# order of a sum shows in the last digits only.
PROGRAM = """
import json, sys
from pathlib import Path
import torch
from llm.training import distributed
from llm.data.batching import Encoded
from llm.training.classification import ClassificationTask
from llm.model.classifier import GPTClassifier
from llm.model.config import GPTConfig
from llm.utils.files import write_json, write_tensors
from llm.lora.methods import LoRASettings, apply_method
from llm.training.loop import train
from llm.training.settings import TrainSettings

torch.set_num_threads(1)
method, accumulate, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
with distributed.team():
    torch.manual_seed(0)
    model = GPTClassifier(GPTConfig(50, 16, 16, 2, 2)).double()
    start = apply_method(model, method, LoRASettings(rank=2, alpha=4))
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 17, (26,), generator=draw).tolist()  # the last batch has two
    ids = [torch.randint(0, 50, (length,), generator=draw).tolist() for length in lengths]
    messages = Encoded(ids, [index % 2 for index in range(26)], 0)
    task = ClassificationTask(model, messages, messages, 8, 0, start)
    settings = TrainSettings(steps=4, lr=1e-2, accumulate=accumulate)
    history = train(model, task, settings)
    trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    write_tensors(folder / f"weights{distributed.rank()}.safetensors", trained, {})
    write_json(folder / f"history{distributed.rank()}.json", history)
"""


def run_team(folder: Path, processes: int, method: str, accumulate: int = 1) -> list[tuple]:
    """The weights and the history of each process."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", PROGRAM, method, str(accumulate), str(folder)]
    shared = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    team = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                **{name: str(value) for name, value in shared.items()},
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "CUDA_VISIBLE_DEVICES": "",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    for process in team:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return [
        (
            load_file(folder / f"weights{rank}.safetensors"),
            json.loads((folder / f"history{rank}.json").read_text()),
        )
        for rank in range(processes)
    ]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_two_processes_end_with_the_weights_of_one(method, tmp_path):
    ((alone, curve),) = run_team(tmp_path / "one", 1, method)
    (first, history), (second, _) = run_team(tmp_path / "two", 2, method)
    for name, weight in alone.items():
        assert torch.equal(first[name], second[name]), name  # processes never drift apart
        torch.testing.assert_close(first[name], weight, atol=1e-10, rtol=1e-10)
    losses = [point["loss"] for point in curve["curve"]]
    assert [point["loss"] for point in history["curve"]] == pytest.approx(losses, abs=1e-6)
    # What is exchanged a step is one number for each trained weight, and nothing else.
    trained_bytes = sum(weight.numel() * 8 for weight in alone.values())
    assert history["exchanged_bytes"] == STEPS * trained_bytes
    assert "exchanged_bytes" not in curve


def test_accumulating_exchanges_once_a_step(tmp_path):
    ((alone, _),) = run_team(tmp_path / "one", 1, "lora")
    (weights, history), _ = run_team(tmp_path / "two", 2, "lora", accumulate=2)
    for name, weight in alone.items():
        torch.testing.assert_close(weights[name], weight, atol=1e-10, rtol=1e-10)
    assert history["exchanged_bytes"] == STEPS * sum(w.numel() * 8 for w in alone.values())
