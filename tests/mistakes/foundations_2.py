"""What learners get wrong, and right in another way, in foundations, lesson 2: attention."""

MASK = "torch.ones(tokens, tokens, dtype=torch.bool).triu(diagonal=1)"
SPLIT = "x.reshape(batch, tokens, n_heads, emb_dim // n_heads).transpose(1, 2)"
HEADS = "z.unflatten(-1, (n_heads, -1)).transpose(1, 2)"
MERGED = "heard.transpose(1, 2).flatten(2)"

WRONG = [
    # 2.1
    ("mask", "diagonal=1", "diagonal=0", "may look at itself"),
    ("mask", "diagonal=1", "diagonal=2", "next token is still to be seen"),
    ("mask", ".triu(diagonal=1)", ".tril()", "the token itself, and left the future open"),
    ("mask", ".triu(diagonal=1)", ".tril(-1)", "struck out the past"),
    ("mask", MASK, "~" + MASK, "the token itself, and left"),
    ("mask", ".triu(diagonal=1)", "", "Everything is forbidden"),
    ("mask", MASK, "torch.zeros(tokens, tokens, dtype=torch.bool)", "Nothing is forbidden"),
    ("mask", ", dtype=torch.bool", "", "True and False: torch.bool"),
    ("mask", "torch.ones(tokens, tokens,", "torch.ones(tokens, 1,", "three rows and three columns"),
    ("mask", "return ", "", "does your function `return` it"),
    # 2.2
    ("scores", " / math.sqrt(q.shape[-1])", "", "scale is missing"),
    ("scores", "math.sqrt(q.shape[-1])", "q.shape[-1]", "divided by d"),
    ("scores", "/ math", "* math", "multiplied by the square root"),
    ("scores", "q.shape[-1]", "q.shape[-2]", "number of tokens"),
    ("scores", "q.shape[-1]", "q.shape[0]", "number of heads"),
    ("scores", "q @ k.transpose", "k @ q.transpose", "transposed: rows are queries"),
    ("scores", "k.transpose(-2, -1)", "k.T", "turns the heads as well"),
    ("scores", "k.transpose(-2, -1)", "k", "do not fit"),
    ("scores", "q @ k.transpose(-2, -1)", "q * k", "number by number"),
    ("scores", "q @ k", "query @ k", "name that it does not know"),
    # 2.3
    ("weights", "scores.masked_fill(future, -torch.inf)", "scores", "future is not struck out"),
    (
        "weights",
        "scores.masked_fill(future, -torch.inf)",
        "scores.masked_fill(future, 0)",
        "power of 0 is 1",
    ),
    ("weights", "scores.masked_fill", "scores.masked_fill_", "given have changed"),
    (
        "weights",
        "scores = scores.masked_fill(future, -torch.inf)",
        "return torch.softmax(scores, -1).masked_fill(future, 0)",
        "struck out after softmax",
    ),
    ("weights", "powers.sum(-1, keepdim=True)", "powers.sum(-1)", "keepdim=True"),
    ("weights", "powers.sum(-1, keepdim=True)", "powers.sum()", "divided by one sum"),
    (
        "weights",
        "powers.sum(-1, keepdim=True)",
        "powers.sum(0, keepdim=True)",
        "should be",
    ),
    ("weights", "scores.amax(-1, keepdim=True)", "scores.amax(-1)", "keepdim=True"),
    ("weights", " / powers.sum(-1, keepdim=True)", "", "These are the powers"),
    ("weights", "(scores - scores.amax(-1, keepdim=True))", "scores", "each ROW first"),
    ("weights", "scores.amax(-1, keepdim=True)", "scores.amax()", "each ROW first"),
    ("weights", "masked_fill(future", "masked_fill(~future", "allowed the future|nan"),
    ("weights", "return powers", "powers", "does your function `return` it"),
    # 2.4
    ("attend", "scores.masked_fill(future, -torch.inf)", "scores", "mask is missing"),
    ("attend", " / math.sqrt(q.shape[-1])", "", "scale is missing"),
    ("attend", "math.sqrt(q.shape[-1])", "q.shape[-1]", "divided by d"),
    ("attend", "dim=-1", "dim=-2", "down the columns"),
    ("attend", "weights @ v", "weights.transpose(-2, -1) @ v", "weights are transposed"),
    ("attend", "weights @ v", "weights", "Multiply them by the values"),
    ("attend", "future, -torch.inf", "future, 0", "power of 0 is 1"),
    ("attend", "diagonal=1", "diagonal=0", "struck out as a whole"),
    ("attend", "triu(diagonal=1)", "tril(diagonal=-1)", "upside down"),
    ("attend", "k.transpose(-2, -1)", "k.T", "do not fit"),
    ("attend", "q @ k.transpose", "q @ v.transpose", "met the values"),
    ("attend", "return weights", "weights", "does your function `return` it"),
    (
        "attend",
        "torch.softmax(scores.masked_fill(future, -torch.inf), dim=-1)",
        "torch.softmax(scores, dim=-1).masked_fill(future, 0)",
        "Struck out after softmax",
    ),
    # 2.5
    ("split-heads", ".transpose(1, 2)", "", "tokens come before them"),
    ("split-heads", SPLIT, "x.reshape(batch, n_heads, tokens, -1)", "pieces of several tokens"),
    (
        "split-heads",
        SPLIT,
        "x.reshape(batch, tokens, emb_dim // n_heads, n_heads).permute(0, 3, 1, 2)",
        "every second number",
    ),
    ("split-heads", ".transpose(1, 2)", ".permute(0, 2, 3, 1)", "last two dimensions"),
    ("split-heads", ".transpose(1, 2)", ".permute(2, 0, 1, 3)", "before the batch"),
    ("split-heads", SPLIT, "x", "as it was"),
    ("split-heads", "emb_dim // n_heads", "emb_dim", "do not fit"),
    (
        "split-heads",
        "tokens, n_heads, emb_dim // n_heads",
        "tokens, 2, 2",
        "of size 30",
    ),
    ("split-heads", "return x", "x", "does your function `return` it"),
    # 2.6
    (
        "merge-heads",
        "x.transpose(1, 2).flatten(2)",
        "x.reshape(2, 3, -1)",
        "numbers are in the wrong",
    ),
    ("merge-heads", ".flatten(2)", "", "still a dimension of their own"),
    ("merge-heads", ".flatten(2)", ".view(len(x), x.shape[2], -1)", "view refuses"),
    ("merge-heads", "x.transpose(1, 2).flatten(2)", "x.mean(1)", "mean of the heads"),
    ("merge-heads", "x.transpose(1, 2).flatten(2)", "x.sum(1)", "added the heads up"),
    ("merge-heads", "x.transpose(1, 2)", "x.permute(0, 2, 3, 1)", "one number at a time"),
    ("merge-heads", ".transpose(1, 2)", "", "tokens side by side"),
    ("merge-heads", "return x", "x", "does your function `return` it"),
    # 2.7
    ("multi-head", f"layers.out_proj({MERGED})", MERGED, "out_proj is missing"),
    ("multi-head", ", is_causal=True", "", "mask is missing"),
    (
        "multi-head",
        "    q, k, v =",
        "    def split(z):\n        return z[:, None]\n\n    q, k, v =",
        "One wide head",
    ),
    (
        "multi-head",
        "layers.W_key, layers.W_value",
        "layers.W_value, layers.W_key",
        "Keys and values",
    ),
    (
        "multi-head",
        "layers.W_query, layers.W_key",
        "layers.W_key, layers.W_query",
        "Queries and keys",
    ),
    ("multi-head", "layers.W_value)", "layers.W_key)", "keys were listened to"),
    ("multi-head", HEADS, "z.reshape(len(z), n_heads, z.shape[1], -1)", "to the wrong heads"),
    ("multi-head", MERGED, "heard.reshape(x.shape)", "merged in the wrong order"),
    ("multi-head", "is_causal=True", "is_causal=True, scale=x.shape[-1] ** -0.5", "ITS width"),
    ("multi-head", "split(layer(x))", "split(x)", "x goes in as it is"),
    ("multi-head", f"out_proj({MERGED})", "out_proj(heard)", "do not fit"),
    ("multi-head", "return layers", "layers", "does your function `return` it"),
    (
        "multi-head",
        HEADS,
        "z.reshape(len(z), n_heads, z.shape[1], -1)\n\n"
        "    three = layers.W_query, layers.W_key, layers.W_value\n"
        "    q, k, v = (split(layer(x)) for layer in three)\n"
        "    heard = F.scaled_dot_product_attention(q, k, v, is_causal=True)\n"
        "    return layers.out_proj(heard.reshape(x.shape))",
        "put them back",
    ),
]

# Other ways to a right answer, which the checks must not refuse.
RIGHT = [
    ("mask", MASK, "torch.arange(tokens) > torch.arange(tokens)[:, None]"),
    ("scores", "q @ k.transpose(-2, -1)", 'torch.einsum("...id,...jd->...ij", q, k)'),
    (
        "weights",
        "powers / powers.sum(-1, keepdim=True)",
        "torch.softmax(scores, -1)",
    ),
    ("weights", "(scores - scores.amax(-1, keepdim=True))", "(scores.T - scores.amax(-1).T).T"),
    ("attend", "return weights @ v", "return attention_weights(scaled_scores(q, k), future) @ v"),
    ("split-heads", SPLIT, "torch.stack(x.chunk(n_heads, dim=-1), dim=1)"),
    ("merge-heads", "x.transpose(1, 2).flatten(2)", "torch.cat(list(x.unbind(1)), dim=-1)"),
    (
        "multi-head",
        "F.scaled_dot_product_attention(q, k, v, is_causal=True)",
        "attend(q, k, v)",
    ),
]

BY_HEART = {
    "mask": "def future_mask(tokens):\n"
    "    return torch.tensor([[0, 1, 1], [0, 0, 1], [0, 0, 0]], dtype=torch.bool)",
    "merge-heads": "def merge_heads(x):\n    return torch.cat([x[:, 0], x[:, 1]], dim=-1)",
}
