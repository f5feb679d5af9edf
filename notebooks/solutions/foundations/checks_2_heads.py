"""The checks of exercises 2.5 to 2.7. They hold answers: try first, read later."""

import torch
import torch.nn.functional as F
from torch import nn

from llm.exercises import attempt, exercise, expect
from llm.model.attention import MultiHeadAttention
from llm.model.config import GPTConfig


def numbered(batch: int, tokens: int, width: int) -> torch.Tensor:
    """(batch, tokens, width): a number that tells where it stands, 123 for message 1, token 2."""
    places = [torch.arange(n) * 10**e for n, e in ((batch, 2), (tokens, 1), (width, 0))]
    return (places[0][:, None, None] + places[1][:, None] + places[2]).float()


@exercise("2.5")
def check_split_heads(split_heads):
    x = numbered(2, 3, 4)  # two heads of two numbers each
    wanted = torch.stack([x[:, :, :2], x[:, :, 2:]], dim=1)  # (2, 2, 3, 2)
    found = attempt(
        *(split_heads, x, 2),
        hint="The shapes do not fit: (2, 3, 4) in two heads is (2, 3, 2, 2) first, and then "
        "(2, 2, 3, 2).",
    )
    mistakes = {
        "The heads are a dimension, but the tokens come before them. Let the two change places: "
        "transpose(1, 2).": x.reshape(2, 3, 2, 2),
        "The shape is right and the numbers are in the wrong places: reshape alone deals them out "
        "row "
        "by row, so a head gets pieces of several tokens. Cut the last dimension first, then "
        "transpose.": x.reshape(2, 2, 3, 2),
        "Head 0 got every second number. A head takes numbers that stand side by side: cut into "
        "(n_heads, d), not (d, n_heads).": torch.stack([x[..., ::2], x[..., 1::2]], dim=1),
        "The last two dimensions are exchanged: (batch, n_heads, tokens, d).": wanted.transpose(
            2, 3
        ),
        "The heads come before the batch: (batch, n_heads, tokens, d).": wanted.transpose(0, 1),
        "You gave x back as it was.": x,
    }
    expect(found, wanted, mistakes, "two messages of three tokens, in two heads")
    wide = attempt(split_heads, numbered(1, 5, 6), 3)
    assert wide.shape == (1, 3, 5, 2), (
        f"(1, 5, 6) in three heads should be (1, 3, 5, 2), and yours is {tuple(wide.shape)}: heads "
        "times d is emb_dim."
    )
    expect(wide[0, 2, 4], [44.0, 45.0], what="head 2 of token 4, of three heads of two numbers")
    return "One product computes all heads of all messages now: the kernel takes this very shape."


@exercise("2.6")
def check_merge_heads(merge_heads):
    x = numbered(2, 3, 4)
    heads = torch.stack([x[:, :, :2], x[:, :, 2:]], dim=1)  # (2, 2, 3, 2)
    found = attempt(
        *(merge_heads, heads),
        hint="view refuses after a transpose: the numbers do not lie in memory in that order. "
        "reshape or flatten makes a copy where it has to.",
    )
    mistakes = {
        "The shape is right and the numbers are in the wrong places: let heads and tokens change "
        "their "
        "places first, then flatten.": heads.reshape(2, 3, 4),
        "The heads are still a dimension of their own: make one of the last two.": (
            heads.transpose(1, 2)
        ),
        "You took the mean of the heads. They stand side by side: each keeps its numbers.": (
            heads.mean(1)
        ),
        "You added the heads up. They stand side by side: each keeps its numbers.": heads.sum(1),
        "The heads are dealt out one number at a time. All of head 0 comes first.": (
            heads.permute(0, 2, 3, 1).flatten(2)
        ),
        "You put the tokens side by side, not the heads.": heads.flatten(2),
    }
    expect(found, x, mistakes, "two messages of three tokens, their two heads merged")
    return "Split and merge cancel out. Between them every head may listen to something else."


@exercise("2.7")
def check_multi_head(multi_head):
    torch.manual_seed(0)
    layers = MultiHeadAttention(GPTConfig(vocab_size=8, context_length=8, emb_dim=12, n_heads=3))
    x = torch.randn(2, 5, 12)
    names = ("W_query", "W_key", "W_value")
    pytorch = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        pytorch.in_proj_weight.copy_(torch.cat([getattr(layers, n).weight for n in names]) * 3)
        pytorch.in_proj_bias.copy_(torch.cat([getattr(layers, n).bias for n in names]))
        for name in names:
            getattr(layers, name).weight.mul_(3)  # so that weights differ much
        pytorch.out_proj.load_state_dict(layers.out_proj.state_dict())
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    wanted, _ = pytorch(x, x, x, attn_mask=future, need_weights=False)

    found = attempt(
        *(multi_head, x, layers, 3),
        hint="The shapes do not fit. (2, 5, 12) in three heads is (2, 3, 5, 4); merged again it is "
        "(2, 5, 12), and then comes out_proj.",
    )

    def heads(layer):
        return layer(x).unflatten(-1, (3, 4)).transpose(1, 2)

    def whole(heard):
        return layers.out_proj(heard.transpose(1, 2).flatten(2))

    q, k, v = (heads(getattr(layers, name)) for name in names)
    kernel = F.scaled_dot_product_attention
    heard = kernel(q, k, v, is_causal=True)
    wide = kernel(*(getattr(layers, n)(x) for n in names), is_causal=True)
    dealt = [getattr(layers, name)(x).reshape(2, 3, 5, 4) for name in names]
    mistakes = {
        "out_proj is missing: it mixes what the heads have heard.": heard.transpose(1, 2).flatten(
            2
        ),
        "The mask is missing: is_causal=True.": whole(kernel(q, k, v)),
        "One wide head, and not three: split before you attend.": layers.out_proj(wide),
        "Keys and values are exchanged.": whole(kernel(q, v, k, is_causal=True)),
        "Queries and keys are exchanged.": whole(kernel(k, q, v, is_causal=True)),
        "The values are missing: the keys were listened to.": whole(
            kernel(q, k, k, is_causal=True)
        ),
        "reshape alone dealt out the numbers to the wrong heads: cut the last dimension, then "
        "transpose.": layers.out_proj(kernel(*dealt, is_causal=True).transpose(1, 2).flatten(2)),
        "reshape alone dealt the numbers out and put them back: cut the last dimension, then "
        "transpose, and on the way back the other way round.": layers.out_proj(
            kernel(*dealt, is_causal=True).reshape(2, 5, 12)
        ),
        "The heads are merged in the wrong order: transpose before you flatten.": layers.out_proj(
            heard.reshape(2, 5, 12)
        ),
        "The scale is that of the whole row. Each head divides by the root of ITS width.": whole(
            kernel(q, k, v, is_causal=True, scale=12**-0.5)
        ),
        "x goes in as it is. Queries, keys and values are made by W_query, W_key and "
        "W_value.": whole(kernel(*[x.unflatten(-1, (3, 4)).transpose(1, 2)] * 3, is_causal=True)),
    }
    expect(found, wanted, mistakes, "the output of the layer (PyTorch's own is the measure)")
    return "The cell below puts it into all ten blocks of a pretrained model."
