"""What learners get wrong, and right in another way, in beyond, lesson 3: mend it.

A wrong answer here has one of the bugs of the broken code left, or is mended too much.
"""

WRONG = [
    # 3.1
    (
        "mended-lora",
        "torch.zeros(rank, out_dim)",
        "0.1 * torch.randn(rank, out_dim)",
        "One bug is left. Right after the injection",
    ),
    (
        "mended-lora",
        "    model.requires_grad_(False)\n    model.head.requires_grad_(True)\n",
        "    model.body.trf_blocks.requires_grad_(False)\n",
        "One bug is left. .* tensors of the base are still trained",
    ),
    (
        "mended-lora",
        "        if self.merged:\n            return self.linear(x)\n",
        "",
        "One bug is left. After merging",
    ),
    (
        "mended-lora",
        'raise ValueError("merged already")',
        "pass",
        r"One bug is left. A second merge\(\)",
    ),
    ("mended-lora", "    model.head.requires_grad_(True)\n", "", "too much: the head is frozen"),
    (
        "mended-lora",
        "MendedLoRA(module, rank, alpha))",
        "MendedLoRA(module, rank, alpha).requires_grad_(False))",
        "too much: A and B are frozen",
    ),
    (
        "mended-lora",
        "(2 * torch.rand(in_dim, rank) - 1)",
        "torch.zeros(in_dim, rank)",
        "too much: A is zero",
    ),
    ("mended-lora", "self.scale = alpha / rank", "self.scale = alpha", "scale was right"),
    (
        "mended-lora",
        "self.linear.weight += self.scale",
        "self.linear.weight -= self.scale",
        "no longer adds",
    ),
    ("mended-lora", "in targets:", "in targets[:1]:", "3 layers have LoRA, 6 should"),
    (
        "mended-lora",
        "MendedLoRA(module, rank",
        "BrokenLoRA(module, rank",
        "3 of 4 bugs are left. The first: Right after",
    ),
    # 3.2
    (
        "mended-training",
        "[rows, part.lengths - 1]",
        "[:, -1]",
        r"One bug is left. The answer is read where",
    ),
    (
        "mended-training",
        "        optimizer.zero_grad()\n",
        "",
        "One bug is left. Step 2 goes along",
    ),
    (
        "mended-training",
        "        model.train()\n",
        "",
        "From step 1 on|One bug is left. From step 3 on the model is trained in evaluation",
    ),
    (
        "mended-training",
        "score = accuracy(validation)",
        "score = accuracy(test)",
        "One bug is left. The test messages were looked at 4 times",
    ),
    (
        "mended-training",
        "copy.deepcopy(model.state_dict())",
        "model.state_dict()",
        "One bug is left. At the end the model has the weights of the last step",
    ),
    (
        "mended-training",
        "copy.deepcopy(model.state_dict())",
        "dict(model.state_dict())",
        "One bug is left. At the end",
    ),
    ("mended-training", "        model.eval()\n", "", "too much: dropout acts while"),
    ("mended-training", "return accuracy(test)", "return best", "test accuracy is 0.75 here"),
    ("mended-training", "    model.load_state_dict(weights)\n", "", "One bug is left. At the end"),
    ("mended-training", "if score > best:", "if True:", "One bug is left. At the end"),
    ("mended-training", "return accuracy(test)", "accuracy(test)", "Nothing came back"),
    ("mended-training", "range(1, steps + 1)", "range(1, steps)", "5 steps; 6 were asked for"),
    (
        "mended-training",
        "def mended_training",
        "mended_training = broken_training\n\n\ndef other",
        "5 of 5 bugs are left. The first: The answer is read where",
    ),
]

RIGHT = [
    ("mended-lora", 'raise ValueError("merged already")', "return"),
    (
        "mended-lora",
        "            return self.linear(x)\n        return self.linear(x) +",
        "            return self.linear(x)\n        return 0 + self.linear(x) +",
    ),
    (
        "mended-training",
        "copy.deepcopy(model.state_dict())",
        "{name: x.clone() for name, x in model.state_dict().items()}",
    ),
    (
        "mended-training",
        "optimizer.zero_grad()\n        F.cross_entropy(answers(train), train.labels).backward()",
        "loss = F.cross_entropy(answers(train), train.labels)\n        optimizer.zero_grad()\n"
        "        loss.backward()",
    ),
]
