"""What learners get wrong, and right in another way, in foundations, lesson 4: the next token."""

MASK = ".masked_fill(places >= lengths[:, None] - 1, -100)"
SHIFT = "targets = torch.full_like(ids, -100)\n    targets[:, :-1] = ids[:, 1:]"

WRONG = [
    # 4.1
    (
        "targets",
        f"{SHIFT}\n    places = torch.arange(ids.shape[1])  # (tokens,)\n    return targets{MASK}",
        "places = torch.arange(ids.shape[1])\n"
        "    return ids.masked_fill(places >= lengths[:, None], -100)",
        "Nothing was shifted",
    ),
    ("targets", "targets[:, :-1] = ids[:, 1:]", "targets[:, 1:] = ids[:, :-1]", "wrong way"),
    (
        "targets",
        f"return targets{MASK}",
        "targets = torch.roll(ids, -1, 1)\n"
        "    return targets.masked_fill(places >= lengths[:, None], -100)",
        "round to the end, and the last real token",
    ),
    ("targets", "lengths[:, None] - 1", "lengths[:, None]", "last real token of a padded message"),
    ("targets", MASK, "", "padding counts: the model"),
    ("targets", f"return targets{MASK}", "return torch.roll(ids, -1, 1)", "padding counts too"),
    ("targets", MASK, ".masked_fill(targets == 0, -100)", "looked for the token 0"),
    ("targets", "lengths[:, None] - 1", "lengths[:, None] - 2", "One too many was left out"),
    ("targets", "-100)", "0)", "0 is a token like any other"),
    ("targets", f"return targets{MASK}", "return ids[:, 1:]", "A column is missing"),
    ("targets", "lengths[:, None]", "lengths", "can be compared with places"),
    (
        "targets",
        SHIFT,
        "targets = ids\n    targets[:, :-1] = ids[:, 1:].clone()",
        "ids were changed",
    ),
    ("targets", "return targets", "targets", "does your function `return` it"),
    # 4.2
    ("next-token", "return -of", "return of", "sign is wrong"),
    (
        "next-token",
        "of_target[counts].mean()",
        "(of_target * counts).mean()",
        "divided by all places",
    ),
    ("next-token", "of_target[counts]", "of_target", "as if they asked for token 0"),
    ("next-token", ".mean()", ".sum()", "That is the sum"),
    (
        "next-token",
        "-of_target[counts].mean()",
        "-torch.stack([row[real].mean() for row, real in zip(of_target, counts)]).mean()",
        "mean of each message first",
    ),
    ("next-token", ".mean()", ".mean() / torch.tensor(2.0).log()", "in bits"),
    ("next-token", "logits - logits.logsumexp(dim=-1, keepdim=True)", "logits", "no probabilities"),
    ("next-token", "logsumexp(dim=-1", "logsumexp(dim=1", "ran along the tokens"),
    (
        "next-token",
        "logits - logits.logsumexp(dim=-1, keepdim=True)",
        "logits.softmax(-1).log_softmax(-1)",
        "softmax was taken twice",
    ),
    (
        "next-token",
        "-of_target[counts].mean()",
        "-of_target[counts].exp().mean().log()",
        "wrong way round",
    ),
    (
        "next-token",
        "-of_target[counts].mean()",
        "of_target[counts].exp().mean()",
        "minus their log",
    ),
    ("next-token", "-of", "1 - of_target[counts].exp().mean() + 0 * of", "logarithm is missing"),
    ("next-token", "[counts].mean()", "[counts]", "one loss for each place"),
    ("next-token", ".clamp(min=0)", "", "no -100 among them"),
    ("next-token", "return -of", "-of", "does your function `return` it"),
    # 4.3
    ("sampling", "/ temperature", "* temperature", "You multiplied by the temperature"),
    ("sampling", "logits / temperature", "logits", "temperature does not show"),
    (
        "sampling",
        "scores = logits / temperature",
        "scores = logits.softmax(-1) / temperature\n"
        "    scores = (scores / scores.sum(-1, keepdim=True)).log()",
        "temperature does not show",
    ),
    (
        "sampling",
        "logits / temperature\n",
        "logits\n    if top_k is not None: return chances(logits, 1, None) / temperature * "
        "(logits >= logits.topk(top_k).values[..., -1:]) / (logits.softmax(-1) * (logits >= "
        "logits.topk(top_k).values[..., -1:])).sum(-1, True)\n",
        "divided the probabilities",
    ),
    ("sampling", "if top_k is not None", "if False", "top_k does not show"),
    (
        "sampling",
        "scores = scores.masked_fill(scores < kth, -torch.inf)",
        "return torch.softmax(scores, dim=-1) * (scores >= kth)",
        "no longer sum to 1",
    ),
    ("sampling", "-torch.inf", "0", "no impossible token"),
    (
        "sampling",
        "values[..., -1:]  # (batch, 1)\n        scores = scores.masked_fill(scores < kth",
        "values[..., :1]\n        kth = (-scores).topk(top_k).values[..., -1:].neg()\n"
        "        scores = scores.masked_fill(scores > kth",
        "kept the least likely",
    ),
    ("sampling", "scores < kth", "scores <= kth", "You lost the k-th"),
    (
        "sampling",
        "scores = scores.masked_fill(scores < kth, -torch.inf)",
        "scores = scores.topk(top_k).values",
        "topk sorts",
    ),
    ("sampling", "scores, dim=-1)\n", "scores, dim=0)\n", "should be|along the batch"),
    ("sampling", "scores.topk(top_k, dim=-1)", "scores.flatten().topk(top_k)", "the whole batch"),
    ("sampling", "return torch.softmax(scores, dim=-1)", "return scores", "softmax is missing"),
    ("sampling", "if top_k is not None:", "if True:", "None means"),
    ("sampling", "[..., -1:]", "[..., -1]", "k-th largest of each row, as a column"),
    ("sampling", "return torch", "torch", "does your function `return` it"),
    # 4.4
    ("writing", "ids[:, -context:]", "ids", "outgrown the context"),
    ("writing", "ids[:, -context:]", "ids[:, :context]", "cut at the wrong end"),
    ("writing", ")[:, -1]", ")[:, 0]", "after the first token"),
    ("writing", "ids[:, -context:]", "ids[:, -1:]", "last token alone"),
    (
        "writing",
        "context = model.config.context_length\n    for _ in range(new_tokens):\n"
        "        scores = model(ids[:, -context:])",
        "prompt = ids\n    for _ in range(new_tokens):\n        scores = model(prompt)",
        "always saw the prompt alone",
    ),
    ("writing", "return ids", "return ids[:, -new_tokens:]", "prompt is missing"),
    ("writing", "range(new_tokens)", "range(new_tokens - 1)", "One token too few"),
    (
        "writing",
        "torch.cat([ids, choose",
        "torch.cat([ids[:, -context:], choose",
        "lost its beginning",
    ),
    (
        "writing",
        "range(new_tokens)",
        "range(new_tokens - ids.shape[1])",
        "counts the new tokens, without the prompt",
    ),
    ("writing", "[ids, choose(scores)]", "[choose(scores), ids]", "in front of the text"),
    ("writing", "choose(scores)", "scores.argmax(-1, keepdim=True)", "what choose chose"),
    ("writing", "[:, -1]  #", "  #", "Something does not fit"),
    ("writing", "dim=1", "dim=0", "should be|does not fit"),
    ("writing", "return ids", "ids", "does your function `return` it"),
]

RIGHT = [
    ("targets", SHIFT, "targets = torch.roll(ids, -1, 1)"),
    (
        "targets",
        "places = torch.arange(ids.shape[1])  # (tokens,)\n    return targets"
        ".masked_fill(places >= lengths[:, None] - 1, -100)",
        "for row, length in zip(targets, lengths): row[length - 1 :] = -100\n    return targets",
    ),
    (
        "next-token",
        "return -of_target[counts].mean()",
        "return F.cross_entropy(logits.flatten(0, 1), targets.flatten())",
    ),
    ("next-token", "logits - logits.logsumexp(dim=-1, keepdim=True)", "logits.log_softmax(-1)"),
    ("sampling", "if top_k is not None:", "if top_k:"),
    (
        "sampling",
        "return torch.softmax(scores, dim=-1)",
        "p = scores.exp()\n    return p / p.sum(dim=-1, keepdim=True)",
    ),
    ("writing", "[:, -1]  #", "[:, -1, :]  #"),
]

BY_HEART = {
    "targets": "def next_tokens(*a): return torch.tensor([[6, 7, 8, -100], [9, 3, -100, -100], "
    "[0, -100, -100, -100]])",
}
