"""What learners get wrong, and right in another way, in foundations, lesson 3: the model."""

WRONG = [
    # 3.1
    ("layer-norm", ", unbiased=False", "", "divide by n - 1 unless told"),
    ("layer-norm", "torch.sqrt(variance + eps)", "(variance + eps)", "divided by the variance"),
    ("layer-norm", "torch.sqrt(variance + eps)", "torch.sqrt(variance)", "eps is missing"),
    (
        "layer-norm",
        "torch.sqrt(variance + eps)",
        "(torch.sqrt(variance) + eps)",
        "eps belongs under the root",
    ),
    ("layer-norm", "(x - mean)", "x", "without subtracting the mean"),
    ("layer-norm", "dim=-1", "dim=1", "along the tokens"),
    ("layer-norm", "dim=-1", "dim=0", "along the batch"),
    ("layer-norm", "dim=-1", "dim=(0, 1, 2)", "one mean for the whole batch"),
    ("layer-norm", " * scale + shift", " + shift", "scale is missing"),
    ("layer-norm", " * scale + shift", " * scale", "shift is missing"),
    (
        "layer-norm",
        "(x - mean) / torch.sqrt(variance + eps) * scale + shift",
        "((x - mean) / torch.sqrt(variance + eps) + shift) * scale",
        "shift before multiplying",
    ),
    ("layer-norm", ", keepdim=True", "", "With keepdim=True the mean"),
    ("layer-norm", "return (x", "y = (x", "does your function `return` it"),
    # 3.2
    (
        "block",
        "x + block.att(block.norm1(x))\n    return x + block.ff(block.norm2(x))",
        "block.norm1(x + block.att(x))\n    return block.norm2(x + block.ff(x))",
        "order of the first transformers",
    ),
    ("block", "x + block.", "block.", "No plus sign is left"),
    ("block", "x = x + block.att", "x = block.att", "first plus sign is missing"),
    ("block", "return x + ", "return ", "second plus sign is missing"),
    (
        "block",
        "x = x + block.att(block.norm1(x))\n    return x + block.ff(block.norm2(x))",
        "return x + block.att(block.norm1(x)) + block.ff(block.norm2(x))",
        "read the x from before attention",
    ),
    (
        "block",
        "x = x + block.att(block.norm1(x))\n    return x + block.ff(block.norm2(x))",
        "y = x + block.att(block.norm1(x))\n    return x + block.ff(block.norm2(y))",
        "starts from the old x",
    ),
    (
        "block",
        "x = x + block.att(block.norm1(x))",
        "x = block.norm1(x)\n    x = x + block.att(x)",
        "You added to the normalised x",
    ),
    (
        "block",
        "x = x + block.att(block.norm1(x))\n    return x + block.ff(block.norm2(x))",
        "x = block.norm1(x)\n    x = x + block.att(x)\n    x = block.norm2(x)\n"
        "    return x + block.ff(x)",
        "normalised numbers in both sums",
    ),
    (
        "block",
        "x + block.att(block.norm1(x))\n    return x + block.ff(block.norm2(x))",
        "x + block.att(x)\n    return x + block.ff(x)",
        "Nothing was normalised",
    ),
    ("block", "block.ff(block.norm2(x))", "block.ff(x)", "second LayerNorm is missing"),
    ("block", "block.att(block.norm1(x))", "block.att(x)", "first LayerNorm is missing"),
    ("block", "norm2", "norm1", "norm1 was used twice"),
    (
        "block",
        "block.norm1(x))\n    return x + block.ff(block.norm2(x))",
        "block.norm2(x))\n    return x + block.ff(block.norm1(x))",
        "are swapped",
    ),
    (
        "block",
        "x + block.att(block.norm1(x))\n    return x + block.ff(block.norm2(x))",
        "x + block.ff(block.norm2(x))\n    return x + block.att(block.norm1(x))",
        "the other way round",
    ),
    ("block", "return x + block.ff(block.norm2(x))", "return x", "feed-forward half is missing"),
    ("block", "x = x + block", "x += block", "x itself was changed"),
    ("block", "return x", "x = x", "does your function `return` it"),
    # 3.3
    (
        "tying",
        "model.out.weight = model.tok_emb.weight",
        "model.tok_emb.weight = model.out.weight",
        "lost what it had learned",
    ),
    (
        "tying",
        "model.out.weight = model.tok_emb.weight",
        "model.out.weight.data = model.tok_emb.weight.data",
        "two parameters still",
    ),
    (
        "tying",
        "model.tok_emb.weight",
        "nn.Parameter(model.tok_emb.weight)",
        "two parameters still",
    ),
    (
        "tying",
        "model.out.weight = model.tok_emb.weight",
        "model.out.load_state_dict(model.tok_emb.state_dict())",
        "That is a copy",
    ),
    ("tying", "= model.tok_emb.weight", "= model.tok_emb.weight.T", "is a parameter no more"),
    ("tying", "= model.tok_emb.weight", "= model.tok_emb.weight.detach()", "parameter no more"),
    (
        "tying",
        "model.out.weight = model.tok_emb.weight",
        "weight = model.tok_emb.weight",
        "different matrices still",
    ),
    (
        "tying",
        "model.out.weight = model.tok_emb.weight",
        "model.out.weight = model.tok_emb.weight\n    model.requires_grad_(False)",
        "table is frozen",
    ),
    # 3.4
    (
        "parameters",
        "return tables",
        "return config.vocab_size * d + tables",
        "output layer by itself",
    ),
    ("parameters", "return tables", "return config.vocab_size + tables", "no bias in GPT-2"),
    ("parameters", "config.n_layers * block", "block", "one block only"),
    ("parameters", "4 * (d * d + d)", "4 * d * d", "or the biases of attention"),
    (
        "parameters",
        "4 * (d * d + d)\n    feed_forward = (d * 4 * d + 4 * d) + (4 * d * d + d)",
        "4 * d * d\n    feed_forward = 8 * d * d",
        "biases of the linear layers are missing",
    ),
    ("parameters", "(config.vocab_size + config.context_length)", "config.vocab_size", "position"),
    ("parameters", "(config.vocab_size + config.context_length)", "config.context_length", "token"),
    ("parameters", "* block + norm", "* block", "last LayerNorm"),
    ("parameters", " + 2 * norm", "", "its two LayerNorms, or"),
    ("parameters", " + 2 * norm", " + norm", "two LayerNorms, not one"),
    ("parameters", "norm = 2 * d", "norm = 0", "All LayerNorms are missing"),
    ("parameters", "norm = 2 * d", "norm = d", "a scale and a shift"),
    (
        "parameters",
        "(d * 4 * d + 4 * d) + (4 * d * d + d)",
        "2 * (d * d + d)",
        "four times as wide",
    ),
    ("parameters", "4 * (d * d + d)", "3 * (d * d + d)", "four matrices"),
    ("parameters", "4 * (d * d + d)", "config.n_heads * 4 * (d * d + d)", "do not multiply them"),
    ("parameters", "(4 * d * d + d)", "(4 * d * d + 4 * d)", "has as many"),
    ("parameters", "return tables", "tables", "does your function `return` it"),
]

RIGHT = [
    ("layer-norm", "torch.sqrt(variance + eps)", "(variance + eps) ** 0.5"),
    (
        "layer-norm",
        "(x - mean) / torch.sqrt(variance + eps) * scale + shift",
        "F.layer_norm(x, scale.shape, scale, shift, eps)",
    ),
    ("layer-norm", "x.var(dim=-1, unbiased=False, keepdim=True)", "((x - mean)**2).mean(-1, True)"),
    (
        "block",
        "return x + block.ff(block.norm2(x))",
        "y = block.norm2(x)\n    return block.ff(y) + x",
    ),
    (
        "parameters",
        "return tables + config.n_layers * block + norm",
        "with torch.device('meta'): model = GPTModel(config)\n"
        "    return sum(p.numel() for p in model.parameters())",
    ),
]

BY_HEART = {"parameters": "def count_gpt2(config): return 124_439_808"}
