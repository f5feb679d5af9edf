"""LayerNorm, GELU, FeedForward and the block, against PyTorch, closed forms and transformers."""

import math

import pytest
import torch
import torch.nn.functional as F
from twins import TINY, hf_twin, random_model

from llm.model.blocks import GELU, LayerNorm, gelu_step_by_step, layer_norm_step_by_step
from llm.model.layouts import Packed, PaddedRows, last_tokens_of_block


@pytest.mark.parametrize("shape", [(5, 32), (2, 3, 32)])
def test_layer_norm_equals_the_form_to_read_and_pytorchs(shape):
    x = 3 + 2 * torch.randn(*shape, dtype=torch.float64)
    ours, theirs = LayerNorm(32).double(), torch.nn.LayerNorm(32).double()
    with torch.no_grad():
        ours.scale.uniform_(0.5, 2)
        ours.shift.normal_()
    theirs.load_state_dict({"weight": ours.scale, "bias": ours.shift})
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(layer_norm_step_by_step(x, ours.scale, ours.shift), theirs(x))


def test_layer_norm_gives_mean_0_and_variance_1():
    y = LayerNorm(64)(100 + 5 * torch.randn(7, 64, dtype=torch.float64).float())
    torch.testing.assert_close(y.mean(-1), torch.zeros(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(-1, unbiased=False), torch.ones(7), atol=1e-4, rtol=0)


def test_layer_norm_of_a_constant_is_the_shift():
    norm = LayerNorm(4)
    torch.nn.init.constant_(norm.shift, 3.0)
    assert norm(torch.full((2, 4), 5.0)).tolist() == [[3.0] * 4] * 2


def test_gelu_equals_the_form_to_read_and_pytorchs():
    x = torch.linspace(-8, 8, 1001, dtype=torch.float64)
    expected = F.gelu(x, approximate="tanh")
    torch.testing.assert_close(GELU()(x), expected)
    torch.testing.assert_close(gelu_step_by_step(x), expected)


def test_gelu_is_close_to_x_times_the_normal_distribution():
    """What the tanh form approximates: x * Phi(x), to 5e-4 everywhere."""
    for x in (-3.0, -1.0, 0.0, 0.5, 2.0):
        exact = x * 0.5 * (1 + math.erf(x / math.sqrt(2)))
        assert abs(gelu_step_by_step(torch.tensor(x)).item() - exact) < 5e-4


def test_each_block_equals_transformers():
    model = random_model(dtype=torch.float64)
    twin = hf_twin(model)
    x = torch.randn(2, 9, TINY.emb_dim, dtype=torch.float64)
    for ours, theirs in zip(model.trf_blocks, twin.transformer.h, strict=True):
        found = theirs(x)
        expected = found[0] if isinstance(found, tuple) else found
        torch.testing.assert_close(ours(x), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("packed", [True, False])
def test_the_last_tokens_alone_equal_the_last_token_of_all(packed):
    block = random_model(dtype=torch.float64).trf_blocks[1]
    lengths = torch.tensor([4, 1, 6])
    messages = [torch.randn(n, TINY.emb_dim, dtype=torch.float64) for n in lengths.tolist()]
    padded = torch.nn.utils.rnn.pad_sequence(messages, True)
    x, layout = (
        (torch.cat(messages)[None], Packed(lengths)) if packed else (padded, PaddedRows(lengths))
    )
    expected = torch.stack([block(m[None])[0, -1] for m in messages])
    torch.testing.assert_close(last_tokens_of_block(block, x, layout).flatten(0, 1), expected)
