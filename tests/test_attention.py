"""Causal attention: the form to read, the form to use, the two layouts, and transformers."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import TINY, random_model

from llm.model.attention import MultiHeadAttention, attention_step_by_step, causal
from llm.model.layouts import Packed, PaddedRows


def qkv(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, dtype=torch.float64, generator=generator) for _ in range(3)]


@pytest.fixture
def attention():
    return random_model(TINY, dtype=torch.float64).trf_blocks[0].att


@pytest.mark.parametrize("tokens", [1, 2, 7, 24])
def test_step_by_step_equals_pytorchs_kernel(tokens):
    queries, keys, values = qkv(2, 4, tokens, 8)
    expected = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    torch.testing.assert_close(attention_step_by_step(queries, keys, values), expected)


@pytest.mark.parametrize("tokens", [1, 2, 7, 24])
def test_the_form_in_use_equals_the_form_to_read(attention, tokens):
    queries, keys, values = qkv(3, tokens, TINY.emb_dim)
    heads = [x.view(3, tokens, 4, 8).transpose(1, 2) for x in (queries, keys, values)]
    expected = attention_step_by_step(*heads)
    torch.testing.assert_close(causal(*heads), expected)
    expected = attention.out_proj(expected.transpose(1, 2).reshape(3, tokens, TINY.emb_dim))
    torch.testing.assert_close(attention.combine(queries, keys, values, causal), expected)


def test_two_tokens_by_hand():
    """Scores 0 and ln 3 at head width 1: the second token takes 1/4 and 3/4 of the values."""
    queries = torch.tensor([[5.0], [1.0]])
    keys = torch.tensor([[0.0], [3.0]]).log1p() / torch.tensor(4.0).log() * torch.tensor(3.0).log()
    values = torch.tensor([[10.0], [20.0]])
    result = attention_step_by_step(queries, keys, values)
    torch.testing.assert_close(result, torch.tensor([[10.0], [17.5]]))


def test_no_token_looks_ahead(attention):
    x = torch.randn(1, 9, TINY.emb_dim, dtype=torch.float64)
    changed = x.clone()
    changed[:, 5:] += 1
    before, after = attention(x), attention(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.isclose(before[:, 5:], after[:, 5:]).all(-1).any()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_packed_and_padded_rows_and_each_alone_agree(lengths):
    attention = random_model(TINY, dtype=torch.float64).trf_blocks[0].att
    messages = [torch.randn(n, TINY.emb_dim, dtype=torch.float64) for n in lengths]
    alone = [attention(m[None])[0] for m in messages]
    rows = torch.full((len(lengths), max(lengths) + 2, TINY.emb_dim), 7.0, dtype=torch.float64)
    for row, message in zip(rows, messages, strict=True):
        row[: len(message)] = message
    end_to_end = torch.cat(messages)[None]
    packed = attention(end_to_end, Packed(torch.tensor(lengths)).attend)
    torch.testing.assert_close(packed[0], torch.cat(alone))
    padded = attention(rows, PaddedRows(torch.tensor(lengths)).attend)
    for row, message in zip(padded, alone, strict=True):
        torch.testing.assert_close(row[: len(message)], message)


def test_last_tokens_and_messages_of_both_layouts():
    lengths = torch.tensor([1, 2, 3])
    packed, rows = torch.arange(6.0)[None, :, None], torch.full((3, 4, 1), 9.0)
    for row, message in zip(rows, ([0], [1, 2], [3, 4, 5]), strict=True):
        row[: len(message), 0] = torch.tensor(message, dtype=torch.float)
    for layout, x in ((Packed(lengths), packed), (PaddedRows(lengths), rows)):
        assert layout.last(x).flatten().tolist() == [0, 2, 5]
        assert [m.flatten().tolist() for m in layout.messages(x)] == [[0], [1, 2], [3, 4, 5]]
    assert Packed(lengths).last(packed).shape == (1, 3, 1)
    assert PaddedRows(lengths).last(rows).shape == (3, 1, 1)


def test_gradients_are_those_of_the_form_to_read(attention):
    x = torch.randn(5, TINY.emb_dim, dtype=torch.float64, requires_grad=True)
    attention(x[None], Packed(torch.tensor([2, 3])).attend).square().sum().backward()
    fast, x.grad = x.grad, None
    outputs = []
    for message in x.split([2, 3]):
        parts = [layer(message) for layer in (attention.W_query, attention.W_key)]
        parts.append(attention.W_value(message))
        heads = [part.unflatten(-1, (4, 8)).transpose(0, 1) for part in parts]
        context = attention_step_by_step(*heads).transpose(0, 1).flatten(1)
        outputs.append(attention.out_proj(context))
    torch.cat(outputs).square().sum().backward()
    torch.testing.assert_close(fast, x.grad)


def test_dropout_only_while_training():
    from dataclasses import replace

    attention = MultiHeadAttention(replace(TINY, drop_rate=0.5))
    x = torch.randn(1, 8, TINY.emb_dim)
    attention.train()
    assert not torch.allclose(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


def test_on_a_cpu_packed_attention_in_bfloat16_is_computed_in_float32():
    """Its kernel for the backward pass is slow in bfloat16, also where autocast would choose it."""
    torch.manual_seed(0)
    exact = [torch.randn(1, 2, 7, 4, requires_grad=True) for _ in range(3)]
    lower = [x.detach().bfloat16().requires_grad_() for x in exact]
    with torch.no_grad():
        for x, rounded in zip(exact, lower):
            x.copy_(rounded)
    layout = Packed(torch.tensor([3, 4]))
    layout.attend(*exact).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        found = layout.attend(*lower)
        found.sum().backward()
    assert found.dtype is torch.bfloat16
    for x, rounded in zip(exact, lower):
        assert torch.equal(x.grad.bfloat16(), rounded.grad)
