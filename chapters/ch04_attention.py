"""Chapter 4. Attention: how a token gathers information from the tokens before it

"Call" means one thing in "call me when you are home" and another in "call now to claim". Attention
is the layer, and the only one, in which a token looks at other tokens. Each token asks a question
(its *query*), offers a label (its *key*) and holds a message (its *value*). Where a query fits a
key, the value is listened to: the output is a weighted mean of values. In a GPT nobody may look
ahead, so that the model can be trained to predict the next word at every position at once.

You will see the sums done by hand on three tokens, the written-out form and PyTorch's fused kernel
give the same numbers, a proof that no token sees the future, and the weights for a real message.

Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.
"""

import math
import re
import sys
import textwrap
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # works without installing, too
import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch
from gpt2_plots import attention_figure
from lesson import lesson, listing, save, say, section, show, try_next, weights_option

from llm.data.messages import load_messages
from llm.data.splits import split
from llm.data.tokenizer import mini_tokenizer
from llm.formats.base import load_base
from llm.model.attention import attention_step_by_step, causal


def options(parser):
    weights_option(parser)
    parser.add_argument("--message", help="look at this message in place of a training message")


def teach(options):
    by_hand()
    model = load_base("mini", options.weights, options.seed).eval()
    tokenizer = mini_tokenizer()
    ids = tokenizer.encode(options.message or a_message(tokenizer))[: model.config.context_length]
    ids = torch.tensor([ids or [tokenizer.eot_id]])  # (1, tokens)
    the_message(ids, tokenizer)
    with torch.no_grad():
        written_out_and_fused(model, ids)
        no_token_looks_ahead(model, ids)
        weights_of_a_message(model, ids, tokenizer, options.out)
    try_next(
        '--message "call me when you get home" or one of your own: does the same head of the same '
        "layer look at the same kind of token?",
        "--weights random: before pretraining all scores are near 0, so each token listens to all "
        "tokens before it about equally: the rows fade evenly from 100 % to 100/n %.",
        "in by_hand, multiply the queries by 10: softmax turns almost into a choice of one token. "
        "Division by the square root of the width is there to keep wide heads from that.",
    )


def by_hand():
    section("Three tokens, by hand")
    say(
        "A head two numbers wide. Token 3's query is (1, 0): it fits keys with a large first "
        "number. The scores are the products of query and key, divided by the square root of the "
        "width; the future is set to minus infinity; softmax makes each row sum to 1."
    )
    queries = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])  # (tokens, head_dim)
    keys = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    values = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    scores = queries @ keys.T / math.sqrt(2)  # (tokens, tokens)
    weights = attention_weights(queries, keys)
    output = attention_step_by_step(queries, keys, values)
    show(
        ["token", "scores", "weights", "output"],
        [
            (str(i + 1), numbers(scores[i, : i + 1]), numbers(weights[i]), numbers(output[i]))
            for i in range(3)
        ],
    )
    say("Token 1 sees itself alone, so its output is its own value.")


def attention_weights(queries, keys):
    """The weights themselves: the weighted mean of the rows of the identity is the weights."""
    return attention_step_by_step(queries, keys, torch.eye(keys.shape[-2]))


def queries_keys_values(model, ids, layer):
    """What the heads of block `layer` work with, each (1, n_heads, tokens, head_dim)."""
    x = model.embed(ids, torch.arange(ids.shape[1]))  # (1, tokens, emb_dim)
    for block in model.trf_blocks[:layer]:
        x = block(x)
    x = model.trf_blocks[layer].norm1(x)
    attention = model.trf_blocks[layer].att
    shape = (model.config.n_heads, model.config.head_dim)
    return [
        project(x).unflatten(-1, shape).transpose(1, 2)  # emb_dim is shared out over the heads
        for project in (attention.W_query, attention.W_key, attention.W_value)
    ]


def the_message(ids, tokenizer):
    section("A message")
    text = tokenizer.decode(ids[0].tolist())
    say(f'"{text}"')
    say(
        f"It has {ids.shape[1]} tokens, shown in quotes: most words are one, with the space before "
        "them; a rare word, or a number with its commas, is cut into several."
    )
    if re.search(r"\?\d", text):
        say("The question mark before a number was a pound sign; the collection has lost it.")
    listing(*textwrap.wrap(" ".join(map(tokenizer.token, ids[0].tolist())), 86))


def written_out_and_fused(model, ids):
    section("Written out and fused")
    queries, keys, values = queries_keys_values(model, ids, 0)
    say(
        f"Queries, keys and values of the message are {tuple(queries.shape)}: batch, heads, "
        "tokens, width of a head. The written-out form makes a tokens-by-tokens table for every "
        "head; the fused kernel never stores it."
    )
    slow = attention_step_by_step(queries, keys, values)  # (1, n_heads, tokens, head_dim)
    fused = causal(queries, keys, values)
    listing(
        f"largest output      {fused.abs().max():.3e}",
        f"largest difference  {(slow - fused).abs().max():.3e}",
    )


def no_token_looks_ahead(model, ids):
    section("No token looks ahead")
    other = ids.clone()
    other[0, -1] = (other[0, -1] + 1) % model.config.vocab_size
    change = (model.hidden_states(ids) - model.hidden_states(other)).abs().amax(-1)[0]  # (tokens,)
    before = change[:-1].max().item() if len(change) > 1 else 0.0
    say("Another last token, the whole model run again. How far does the output move?")
    listing(
        f"at all tokens before the last  {before:.3e}",
        f"at the last token              {change[-1]:.3e}",
    )
    say(
        "This is why the classifier of chapter 8 reads the last token: no other has seen all of "
        "the message. And why padding on the right needs no mask: nothing real looks at it."
    )


def weights_of_a_message(model, ids, tokenizer, out):
    section("Who listens to whom in a real message")
    tokens = [tokenizer.token(index)[1:-1] for index in ids[0].tolist()]
    layers = model.config.n_layers
    weights = []
    for layer in range(layers):
        queries, keys, _ = queries_keys_values(model, ids, layer)
        weights.append(attention_weights(queries, keys)[0])  # (n_heads, tokens, tokens)
    weights = torch.stack(weights)  # (n_layers, n_heads, tokens, tokens)
    last = weights[:, :, -1]  # (n_layers, n_heads, tokens): where the last token looks
    rows = []
    for layer in range(layers):
        for head in range(model.config.n_heads):
            at = int(last[layer, head].argmax())
            rows.append((layer, head, tokens[at], at + 1, 100 * float(last[layer, head, at])))
    say(f"The last token is {tokens[-1]!r}. The five heads that listen most to a single token:")
    rows.sort(key=lambda row: -row[-1])
    show(["block", "head", "listens to", "at", "weight (%)"], rows[:5])
    save(attention_figure(weights, tokens), out, "ch04_attention.png")


def a_message(tokenizer) -> str:
    """The first spam message for training that fits into a figure."""
    train = split(load_messages(), seed=0).train
    return next(m.text for m in train if m.label == 1 and len(tokenizer.encode(m.text)) <= 26)


def numbers(row) -> str:
    return "  ".join(f"{value:5.2f}" for value in row.tolist())


if __name__ == "__main__":
    lesson(teach, __doc__, options)
