"""What learners get wrong, and right in another way, in lora, lesson 4: variants and tasks."""

WRONG = [
    # 4.1
    ("dora", "linear.weight.norm(dim=1))", "torch.ones(out_dim))", "not at 1"),
    ("dora", "linear.weight.norm(dim=1))", "linear.weight.norm(dim=0))", "length of the columns"),
    ("dora", "weight.norm(dim=1))", "weight.square().sum(1))", "squared length"),
    ("dora", "nn.Parameter(linear.weight.norm(dim=1))", "linear.weight.norm(dim=1)", "not a param"),
    ("dora", "direction, self.linear.bias", "direction", "bias is lost"),
    ("dora", "turned / turned.norm(dim=1, keepdim=True)", "turned", "length counts twice"),
    ("dora", "turned.norm(dim=1", "self.linear.weight.norm(dim=1", "length of W alone"),
    ("dora", "self.linear.weight + self.lora.delta()", "self.linear.weight", "update is missing"),
    ("dora", "turned.norm(dim=1", "turned.norm(dim=0", "dim=0"),
    ("dora", "self.magnitude[:, None] * direction", "direction", "magnitude is missing"),
    ("dora", "self.magnitude[:, None]", "self.magnitude", "must become a column"),
    ("dora", "self.magnitude[:, None]", "self.linear.weight.norm(dim=1)[:, None]", "in forward"),
    (
        "dora",
        "direction = turned / turned.norm(dim=1, keepdim=True)\n"
        "        return F.linear(x, self.magnitude[:, None] * direction, self.linear.bias)",
        "W = self.linear.weight\n        W = self.magnitude[:, None] * W / "
        "W.norm(dim=1, keepdim=True)\n"
        "        return F.linear(x, W + self.lora.delta(), self.linear.bias)",
        "normalise their sum",
    ),
    # 4.2
    ("lora-plus", '.lora.B")', '.lora.A")', "A learns fast"),
    ("lora-plus", '"lr": lr}', '"lr": lr * ratio}', "A and B both learn fast"),
    ("lora-plus", "lr * ratio", "lr / ratio", "slower, not faster"),
    ("lora-plus", "lr * ratio", "lr", "B learns as fast as A"),
    ("lora-plus", 'if not name.endswith(".lora.B")', 'if ".lora.A" in name', "head is in no group"),
    ("lora-plus", " if p.requires_grad]", "]", "Frozen weights are in a group"),
    (
        "lora-plus",
        'rest = [p for name, p in trained if not name.endswith(".lora.B")]',
        "rest = [p for name, p in trained]",
        "in two groups",
    ),
    ("lora-plus", 'name.endswith(".lora.B")', 'not name.endswith(".lora.A")', "only B is faster"),
    ("lora-plus", 'return [{"params"', '[{"params"', "does your function `return`"),
    ("lora-plus", 'return [{"params"', 'return rest, fast; [{"params"', "Return a list of groups"),
    # 4.3
    ("adapter", ' or name.startswith("head.")', "", "head is missing"),
    ("adapter", 'name.startswith("head.")', 'name == "head.weight"', "head's bias is missing"),
    ("adapter", '\n        if ".lora." in name or name.startswith("head.")', "", "base is in it"),
    ("adapter", ".detach().clone()", "", "model's own memory"),
    ("adapter", '".lora." in name', '".lora.B" in name', "A is missing"),
    ("adapter", '".lora." in name', '".lora.A" in name', "B is missing"),
    ("adapter", "name: tensor", 'name.split(".")[-1]: tensor', "no name of this model"),
    ("adapter", "return {", "{", "does your function `return`"),
    # 4.4
    ("task", '.replace("!", " ")', "", "answer still stands in the text"),
    ("task", '.replace("!", " ")', '.rstrip("!")', "answer still stands in the text"),
    ("task", '"!" in message.text', '"!" in text', "after it was removed"),
    ("task", 'int("!" in message.text)', "message.label", "old labels, for spam"),
    ("task", 'int("!" in message.text)', 'int("!" not in message.text)', "wrong way round"),
    ("task", '"!" in message.text', 'message.text.endswith("!")', "anywhere"),
    ("task", 'int("!" in message.text)', 'message.text.count("!")', "however many marks"),
    ("task", "if text:", "if True:", "empty message is left"),
    (
        "task",
        '" ".join(message.text.replace("!", " ").split())',
        'message.text.replace("!", " ")',
        "empty message is left|gap shows",
    ),
    ("task", "made.append", "if '!' in message.text: made.append", "messages came out"),
    ("task", ".split())", ".lower().split())", "Keep capitals"),
    ("task", "return made", "pass", "does your function `return`"),
]

RIGHT = [
    ("dora", "turned / turned.norm(dim=1, keepdim=True)", "F.normalize(turned, dim=1)"),
    ("dora", "turned.norm(dim=1, keepdim=True)", "turned.detach().norm(dim=1, keepdim=True)"),
    (
        "lora-plus",
        'return [{"params": rest, "lr": lr}, {"params": fast, "lr": lr * ratio}]',
        'return [{"params": [p], "lr": lr * (ratio if any(p is q for q in fast) else 1)} '
        "for p in rest + fast]",
    ),
    (
        "adapter",
        'model.state_dict().items()\n        if ".lora." in name or name.startswith("head.")',
        "model.named_parameters() if tensor.requires_grad",
    ),
    (
        "task",
        '" ".join(message.text.replace("!", " ").split())',
        '" ".join(message.text.replace("!", "").split())',
    ),
]
