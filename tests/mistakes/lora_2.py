"""What learners get wrong, and right in another way, in lora, lesson 2: into the model."""

WRONG = [
    # 2.1
    (
        "merging",
        "if self.merged:\n            return self.linear(x)\n        ",
        "",
        "counts twice",
    ),
    ("merging", "return self.linear(x) + self.lora(x)", "return self.linear(x)", "leaves the upd"),
    (
        "merging",
        'if self.merged:\n            raise ValueError("merged already")',
        "pass",
        "Merged twice",
    ),
    (
        "merging",
        "weight += self.lora.scale * (self.lora.A",
        "weight += (self.lora.A",
        "scale is missing",
    ),
    (
        "merging",
        "+= self.lora.scale * (self.lora.A @ self.lora.B).T",
        "+= self.lora.scale * (self.lora.A @ self.lora.B)",
        "transpose the product",
    ),
    ("merging", "weight +=", "weight -=", "You subtracted the update"),
    ("merging", "self.merged = True", "pass", "Set self.merged = True"),
    ("merging", "self.linear.weight += ", "weight = self.linear.weight + ", "left W as it was"),
    ("merging", "weight -= ", "weight += ", "added the update once more"),
    (
        "merging",
        "weight -= self.lora.scale * (self.lora.A",
        "weight -= (self.lora.A",
        "unmerge forgot the scale",
    ),
    (
        "merging",
        "(self.lora.A @ self.lora.B).T\n        self.merged = False",
        "(self.lora.A @ self.lora.B).T",
        "flag must go back",
    ),
    ("merging", "self.linear.weight +=", "self.linear.weight = W = +", "in place, with"),
    (
        "merging",
        "self.linear.weight += self.lora.scale * (self.lora.A @ self.lora.B).T",
        "self.linear.weight = nn.Parameter(self.linear.weight + self.lora.delta())",
        "a new nn.Parameter took its place",
    ),
    # 2.2
    ("injection", "model.requires_grad_(False)", "pass", "base is not frozen"),
    (
        "injection",
        "model.requires_grad_(False)",
        "[m.requires_grad_(False) for m in model.modules() if isinstance(m, nn.Linear)]",
        "frozen only in part",
    ),
    ("injection", "model.head.requires_grad_(True)", "pass", "head is frozen"),
    (
        "injection",
        "return names",
        "model.requires_grad_(False)\n    model.head.requires_grad_(True)\n    return names",
        "A and B are frozen",
    ),
    ("injection", "in targets\n", 'in targets and ".0." in name\n', "Only one block"),
    ("injection", "setattr(owner, child,", "setattr(model, name,", "still the plain Linear"),
    ("injection", "model.named_modules()", "model.named_children()", "No layer of the model was"),
    ("injection", 'name.rpartition(".")[2] in targets', "name in targets", "No layer of the model"),
    ("injection", "rank, alpha))\n", "alpha, rank))\n", "in this order"),
    ("injection", "    return names", "    pass", "does your function `return` it"),
    ("injection", "in targets", "in [*targets, 'head']", "head is not among the targets"),
    # 2.3
    ("counting", "config.n_layers * a_block", "a_block", "one block only"),
    ("counting", "shapes[name][1])", "shapes[name][1]) + d", "You counted a bias"),
    (
        "counting",
        "rank * (shapes[name][0] + shapes[name][1])",
        "shapes[name][0] * shapes[name][1]",
        "frozen weights W instead",
    ),
    (
        "counting",
        "rank * (shapes[name][0] + shapes[name][1])",
        "rank * (shapes[name][0] + shapes[name][1]) + shapes[name][0] * shapes[name][1]",
        "frozen weights as well",
    ),
    ("counting", "shapes[name][0] + shapes", "shapes[name][0] * shapes", "do not multiply"),
    ("counting", "(shapes[name][0] + shapes[name][1])", "shapes[name][0]", "there are two matri"),
    ("counting", "(d, 4 * d)", "(d, d)", "four times as wide"),
    # 2.4
    ("memory", '"weights": 4 * total', '"weights": 4 * trained', "Frozen weights are in memory"),
    ("memory", '"weights": 4 * total', '"weights": total', "not of bytes"),
    ("memory", '"weights": 4 * total', '"weights": 32 * total', "4 bytes, not 32"),
    ("memory", '"weights": 4 * total', '"weights": 4 * (total + trained)', "part of the total"),
    ("memory", '"gradients": 4 * trained', '"gradients": 4 * total', "have no gradients"),
    ("memory", '"optimizer": 8 * trained', '"optimizer": 4 * trained', "two numbers for each"),
    ("memory", '"optimizer": 8 * trained', '"optimizer": 8 * total', "only the trained weights"),
    ("memory", '"optimizer": 8 * trained', '"optimizer": 12 * trained', "counted apart"),
    ("memory", "return {", "{", "does your function `return`"),
    ("memory", "return {", "return [4 * total, 4 * trained]; {", "Return a dictionary"),
    # 2.5
    ("last-token", "hidden[torch.arange(len(hidden)), lengths - 1]", "hidden[:, -1]", "padding"),
    ("last-token", "lengths - 1]", "lengths]", "length 4 has its last token at place 3"),
    ("last-token", "lengths - 1]", "lengths.clamp(max=hidden.shape[1] - 1)]", "Off by one"),
    ("last-token", "lengths - 1]", "(ids != 0).sum(1) - 1]", "looked for the padding token 0"),
    ("last-token", "torch.arange(len(hidden)), lengths", ":, lengths", "Pair them"),
    ("last-token", "lengths - 1]", "0 * lengths]", "first token"),
    (
        "last-token",
        "hidden[torch.arange(len(hidden)), lengths - 1]",
        "hidden.mean(1)",
        "averaged over all places",
    ),
]

RIGHT = [
    ("merging", 'raise ValueError("merged already")', 'raise RuntimeError("merged already")'),
    (
        "merging",
        "self.linear.weight += self.lora.scale * (self.lora.A @ self.lora.B).T",
        "self.linear.weight.copy_(self.linear.weight + self.lora.delta())",
    ),
    (
        "last-token",
        "hidden[torch.arange(len(hidden)), lengths - 1]",
        "torch.stack([row[n - 1] for row, n in zip(hidden, lengths)])",
    ),
]

BY_HEART = {
    "counting": "def count_lora(c, t, r): return 294_912 if len(t) == 2 else 46_080",
    "memory": "def training_bytes(*a): return {'weights': 4000, 'gradients': 40, 'optimizer': 80}",
}
