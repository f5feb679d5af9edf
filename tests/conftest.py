"""One thread a process: tests run side by side (pytest-xdist), and sums keep their order."""

import os
from typing import TYPE_CHECKING

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; subprocesses inherit it
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

# PyTorch is imported where it is used: the process that hands tests to the workers needs none.
if TYPE_CHECKING:
    from llm.data.batching import Encoded
    from llm.model.config import GPTConfig


def pytest_collection_modifyitems(items: list) -> None:
    """The longest first, in each worker's half: else one works on at the end, and the other waits.

    Workers begin with a half of the list each, and take over from one another (worksteal).
    """
    long = [item for item in items if item.name.startswith("test_it_runs")]
    short = [item for item in items if item not in long]
    half = len(short) // 2
    items[:] = long[::2] + short[:half] + long[1::2] + short[half:]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random numbers, whichever run before it."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def tiny() -> "GPTConfig":
    """A GPT-2 of some thousand parameters."""
    from llm.model.config import GPTConfig

    return GPTConfig(vocab_size=61, context_length=24, emb_dim=16, n_heads=2, n_layers=3)


@pytest.fixture
def messages() -> "Encoded":
    """Forty messages of 1 to 20 tokens; the positive ones contain token 7 more often."""
    import torch

    from llm.data.batching import Encoded

    generator = torch.Generator().manual_seed(5)
    ids, labels = [], []
    for number in range(40):
        length = int(torch.randint(1, 21, (), generator=generator))
        row = torch.randint(8, 61, (length,), generator=generator).tolist()
        label = number % 3 == 0
        if label:
            row[-1] = 7
        ids.append(row)
        labels.append(int(label))
    return Encoded(ids, labels, cut=0)
