"""What the solutions of `beyond` say, beside the programs that everyone uses."""

import math

import pytest
import torch
from lessons import LESSONS, beside, cells, execute, prepared


@pytest.fixture(scope="module", autouse=True)
def leave_no_checks_behind():
    yield
    beside(None)


def solved(number: str, *exercises: str) -> dict:
    """What a lesson's solutions define."""
    lesson = next(x for x in LESSONS if (x.assignment, x.number) == ("beyond", number))
    namespace = dict(prepared(lesson))
    for exercise in exercises:
        execute(cells(lesson.solutions, lesson.name)[exercise].source, namespace)
    return namespace


def test_a_matrix_and_its_bytes_are_those_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    ours = solved("2", "nearest", "block", "matrix", "packing")
    torch.manual_seed(0)
    W = 0.1 * torch.randn(48, 128)
    packed, state = functional.quantize_4bit(W, blocksize=64, quant_type="nf4")
    assert torch.equal(ours["quantised_and_back"](W), functional.dequantize_4bit(packed, state))
    blocks = [ours["quantise_block"](block) for block in W.flatten().split(64)]
    numbers = torch.cat([numbers for numbers, _ in blocks])
    assert torch.equal(ours["pack"](numbers), packed.flatten())
    assert torch.equal(torch.stack([scale for _, scale in blocks]), state.absmax)


def test_probabilities_at_a_temperature_are_those_of_transformers():
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper

    ours = solved("1", "chances")
    torch.manual_seed(0)
    logits = 3 * torch.randn(1, 50)
    for temperature in (0.3, 1.0, 2.5):
        theirs = TemperatureLogitsWarper(temperature)(None, logits)
        theirs = TopKLogitsWarper(3)(None, theirs).softmax(-1)[0]
        torch.testing.assert_close(ours["chances"](logits[0], temperature), theirs)


def test_entropy_and_its_slope_are_those_of_autograd():
    ours = solved("1", "entropy", "slope")
    logits = torch.tensor([2.0, 0.5, -1.0, 0.0], dtype=torch.float64)
    temperature = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    nats = torch.distributions.Categorical(logits=logits / temperature).entropy()
    nats.backward()
    torch.testing.assert_close(ours["entropy_slope"](logits, 1.7), temperature.grad)
    bits = ours["entropy"]((logits / temperature.detach()).softmax(0))
    torch.testing.assert_close(bits, nats.detach() / math.log(2))
