"""What wrong answers of exercises 3 give, each under the hint that names the mistake."""

import torch
from torch import nn

from llm.model.config import GPTConfig


def other_norms(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> dict[str, torch.Tensor]:
    """LayerNorms of x (batch, tokens, emb) with something missing or along another dimension."""
    eps = 1e-5

    def norm(mean, variance, scale=scale, shift=shift):
        return (x - mean) / torch.sqrt(variance + eps) * scale + shift

    def along(dims):
        return norm(x.mean(dims, True), x.var(dims, unbiased=False, keepdim=True))

    mean, variance = x.mean(-1, True), x.var(-1, unbiased=False, keepdim=True)
    return {
        "PyTorch's var and std divide by n - 1 unless told otherwise. LayerNorm divides by n: "
        "unbiased=False.": norm(mean, x.var(-1, keepdim=True)),
        "You divided by the variance. Divide by its square root.": (x - mean)
        / (variance + eps)
        * scale
        + shift,
        "eps is missing. A token whose numbers are nearly all alike would blow up.": (x - mean)
        / variance.sqrt()
        * scale
        + shift,
        "eps belongs under the root, sqrt(variance + eps), not beside it.": (x - mean)
        / (variance.sqrt() + eps)
        * scale
        + shift,
        "You divided by the size without subtracting the mean.": norm(0, variance),
        "You normalised along the tokens (dim=1). Then a token would change with its neighbours: "
        "each is normalised by itself, along the last dimension, dim=-1.": along(1),
        "You normalised along the batch (dim=0). Then a message would change with what stands "
        "beside it: each token by itself, dim=-1.": along(0),
        "You took one mean for the whole batch. Each token has its own: dim=-1.": along((0, 1, 2)),
        "The scale is missing: multiply by it once the numbers are normalised.": norm(
            mean, variance, scale=1
        ),
        "The shift is missing: add it at the end.": norm(mean, variance, shift=0),
        "You added the shift before multiplying. First the scale, then the shift.": norm(
            mean, variance, scale=1
        )
        * scale,
    }


def other_orders(block: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What comes out of a block that is put together in another way, under its hint."""
    n1, att, n2, ff = block.norm1, block.att, block.norm2, block.ff
    middle = x + att(n1(x))
    first, no_norm = n1(x), x + att(x)
    post = n1(x + att(x))
    turned = x + ff(n2(x))
    return {
        "That is the order of the first transformers (post-norm): normalise after adding. GPT-2 "
        "normalises what goes into a part, and leaves the straight path alone.": n2(
            post + ff(post)
        ),
        "No plus sign is left: add each part's answer to what went in.": ff(n2(att(n1(x)))),
        "The first plus sign is missing: x + att(norm1(x)).": att(n1(x)) + ff(n2(att(n1(x)))),
        "The second plus sign is missing: what attention found is lost where the feed-forward "
        "network answers.": ff(n2(middle)),
        "The feed-forward network read the x from before attention. It works on what attention has "
        "made of it.": middle + ff(n2(x)),
        "The second sum starts from the old x, so what attention found is lost. Add to the result "
        "of the first sum.": x + ff(n2(middle)),
        "You added to the normalised x. The straight path carries x itself; only what goes into a "
        "part is normalised.": (first + att(first)) + ff(n2(first + att(first))),
        "You added to the normalised numbers in both sums. The straight path carries x itself; "
        "only what goes into a part is normalised.": n2(first + att(first))
        + ff(n2(first + att(first))),
        "Nothing was normalised: norm1 before attention, norm2 before the feed-forward network.": (
            no_norm + ff(no_norm)
        ),
        "The second LayerNorm is missing: ff(norm2(...)).": middle + ff(middle),
        "The first LayerNorm is missing: att(norm1(x)).": no_norm + ff(n2(no_norm)),
        "norm1 was used twice. The two have learned different scales: norm2 before the "
        "feed-forward network.": middle + ff(n1(middle)),
        "norm1 and norm2 are swapped.": x + att(n2(x)) + ff(n1(x + att(n2(x)))),
        "First attention, then the feed-forward network; yours runs them the other way round.": (
            turned + att(n1(turned))
        ),
        "The feed-forward half is missing.": middle,
    }


def other_counts(config: GPTConfig, right: int) -> dict[str, int]:
    """Counts of a GPT-2's parameters with something left out or twice."""
    V, T, d, L = config.vocab_size, config.context_length, config.emb_dim, config.n_layers
    return {
        "You counted the output layer by itself. It IS the token embedding (3.3), and counts "
        "once.": right + V * d,
        "The output layer has no bias in GPT-2.": right + V,
        "That is one block only: there are config.n_layers.": V * d
        + T * d
        + 12 * d * d
        + 13 * d
        + 2 * d,
        "The biases of the linear layers are missing: one number for each output.": right
        - L * 9 * d,
        "The position embedding is missing: context_length rows of emb_dim numbers.": right - T * d,
        "The token embedding is missing: vocab_size rows of emb_dim numbers.": right - V * d,
        "The last LayerNorm, after the blocks, is missing.": right - 2 * d,
        "4 * emb_dim numbers a block are missing: its two LayerNorms, or the biases of "
        "attention.": right - L * 4 * d,
        "Each block has two LayerNorms, not one.": right - L * 2 * d,
        "All LayerNorms are missing: two a block and one at the end, each with a scale and a "
        "shift.": right - L * 4 * d - 2 * d,
        "A LayerNorm has a scale and a shift: 2 * emb_dim numbers.": right - L * 2 * d - d,
        "The feed-forward network is four times as wide in between: emb_dim to 4 * emb_dim, and "
        "back.": right - L * (6 * d * d + 3 * d),
        "Attention has four matrices: query, key, value, and the output projection.": right
        - L * (d * d + d),
        "The heads share the matrices out among themselves; they do not multiply them.": right
        + L * (config.n_heads - 1) * (4 * d * d + 4 * d),
        "The second layer of the feed-forward network gives emb_dim numbers, and has as many "
        "biases; the first has 4 * emb_dim.": right + L * 3 * d,
    }
