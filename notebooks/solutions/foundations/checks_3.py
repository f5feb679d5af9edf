"""The checks of exercises 3. They hold the answers to many questions: try first, read later."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from wrong_3 import other_counts, other_norms, other_orders

from llm import load_base
from llm.data.tokenizer import mini_tokenizer
from llm.exercises import attempt, exercise, expect, same
from llm.model.config import PRESETS
from llm.model.gpt import GPTModel

MESSAGE = "You have won a £500 prize! Call 09061 now to claim it."


class Bigram(nn.Module):
    """The smallest language model: from a token straight to scores for the next one."""

    def __init__(self, vocab_size: int, emb_dim: int):
        super().__init__()
        self.tok_emb = nn.Embedding(vocab_size, emb_dim)
        self.out = nn.Linear(emb_dim, vocab_size, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(batch, tokens) ids -> (batch, tokens, vocab_size) scores."""
        return self.out(self.tok_emb(ids))


@cache
def mini() -> GPTModel:
    """The bundled base, to be read and not trained."""
    return load_base("mini").eval().requires_grad_(False)


@cache
def embedded() -> torch.Tensor:
    """The message as it enters the first block of `mini`: (1, tokens, emb_dim)."""
    ids = torch.tensor([mini_tokenizer().encode(MESSAGE)])
    return mini().embed(ids, torch.arange(ids.shape[1]))


@torch.no_grad()
def torchs_block(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What PyTorch's own transformer layer makes of x with the weights of a block of ours."""
    width, heads = block.norm1.scale.numel(), block.att.n_heads
    layer = nn.TransformerEncoderLayer(
        *(width, heads, 4 * width, 0.0),
        activation=lambda z: F.gelu(z, approximate="tanh"),
        batch_first=True,
        norm_first=True,
    )
    attention, projections = layer.self_attn, (block.att.W_query, block.att.W_key)
    projections += (block.att.W_value,)
    attention.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
    attention.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
    for theirs, ours in (
        (attention.out_proj, block.att.out_proj),
        (layer.linear1, block.ff.fc1),
        (layer.linear2, block.ff.fc2),
    ):
        theirs.load_state_dict(ours.state_dict())
    for theirs, ours in ((layer.norm1, block.norm1), (layer.norm2, block.norm2)):
        theirs.load_state_dict({"weight": ours.scale, "bias": ours.shift})
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
    return layer(x, src_mask=mask, is_causal=True)


@cache
def first_block() -> torch.Tensor:
    """What should come out of the first block of `mini`."""
    return torchs_block(mini().trf_blocks[0], embedded())


@exercise("3.1")
def check_layer_norm(layer_norm):
    x = torch.tensor(
        [
            [[2.0, 2.0, 6.0, 6.0], [1.0, 0.0, 4.0, 3.0], [0.0, 0.0, 0.0, 0.01]],
            [[5.0, -1.0, 2.0, 0.0], [7.0, 7.0, -2.0, 4.0], [3.0, 9.0, 1.0, -5.0]],
        ]
    )  # (batch=2, tokens=3, emb=4)
    scale, shift = torch.tensor([1.0, 1.0, 2.0, 10.0]), torch.tensor([0.0, 3.0, 0.0, 5.0])
    found = attempt(
        *(layer_norm, x, scale, shift),
        hint="The shapes do not fit. With keepdim=True the mean of (batch, tokens, emb) is (batch, "
        "tokens, 1), which can be subtracted; without it the last dimension is gone.",
    )
    wanted = F.layer_norm(x, (4,), scale, shift)
    mistakes = {} if same(found, wanted) else other_norms(x, scale, shift)
    expect(found, wanted, mistakes, what="the normalised batch")
    tokens = embedded()[0].clone()  # (tokens, 256)
    after = layer_norm(tokens, torch.ones(256), torch.zeros(256)).std(-1)
    before = tokens.std(-1)
    return (
        f"The {len(tokens)} tokens of our message come to mini's first block with a spread of "
        f"{before.min():.2f} to {before.max():.2f}, and leave your function with {after.mean():.2f}"
        " each."
    )


@exercise("3.2")
def check_block(my_block):
    block, x = mini().trf_blocks[0], embedded().clone()
    found = attempt(
        *(my_block, block, x),
        hint="The parts do not fit together. Each takes (batch, tokens, emb) and gives the same "
        "back.",
    )
    assert torch.equal(x, embedded()), (
        "x itself was changed (by += ?). Whoever called you still needs it, and so does the "
        "backward pass: write x = x + ..."
    )
    wanted = first_block()
    mistakes = {} if same(found, wanted) else other_orders(block, x)
    expect(found, wanted, mistakes, what="what comes out of mini's first block")
    with torch.no_grad():
        for block in mini().trf_blocks:
            x = my_block(block, x)
        scores = mini().logits(mini().final_norm(x))[0, -1]  # (vocab_size,)
    likeliest = mini_tokenizer().token(int(scores.argmax()))
    return (
        f"Ten blocks through your function are all of mini: after our message it expects "
        f"{likeliest}, with {100 * scores.softmax(0).max():.0f} %."
    )


@exercise("3.3")
def check_tie(tie):
    torch.manual_seed(0)
    model = Bigram(vocab_size=7, emb_dim=3)
    learned = model.tok_emb.weight.detach().clone()
    attempt(
        *(tie, model),
        hint="model.out.weight has to become the parameter of the embedding itself. Transposed or "
        "detached it is a parameter no more; and nn.Linear stores (out, in), here (7, 3), which is "
        "the shape of the table already.",
        of=(RuntimeError, TypeError),
    )
    table, out = model.tok_emb.weight, model.out.weight
    assert table.shape == out.shape == (7, 3), (
        f"The shapes became {tuple(table.shape)} and {tuple(out.shape)}; both stay (7, 3)."
    )
    if table is not out:
        assert table.data_ptr() != out.data_ptr(), (
            "The two share their numbers, but are two parameters still: an optimizer would give "
            "each its own gradient and its own moments. Assign the parameter itself, not its data."
        )
        assert not torch.equal(table, out), (
            "That is a copy: equal today, and different after the first step of training. Both "
            "names have to mean the same parameter."
        )
        raise AssertionError(
            "The two are different matrices still. Make model.out.weight the same parameter as "
            "model.tok_emb.weight."
        )
    assert torch.equal(table, learned), (
        "The embedding has lost what it had learned: the output layer's random numbers took its "
        "place. Assign the other way round."
    )
    assert table.requires_grad, "The table is frozen now, and would never learn."
    vocabulary = PRESETS["gpt2"].vocab_size * PRESETS["gpt2"].emb_dim
    return (
        f"In GPT-2 that one line saves {vocabulary:,} numbers, and a token that is read in one "
        "place teaches how it is predicted in another."
    )


@exercise("3.4")
def check_parameters(count_gpt2):
    config = PRESETS["gpt2"]
    right = 124_439_808  # as published
    found = attempt(count_gpt2, config)
    # Compared as words, to the last digit: `expect` lets numbers differ by a ten-thousandth.
    mistakes = {hint: f"{count:,}" for hint, count in other_counts(config, right).items()}
    expect(
        *(found if found is None else f"{found:,}", f"{right:,}", mistakes),
        what="the number of parameters of GPT-2",
    )
    return (
        f"{right:,} is what was published, and you have not allocated one of them. "
        "Twelve blocks hold 68 % of it, the table of tokens 31 %."
    )
