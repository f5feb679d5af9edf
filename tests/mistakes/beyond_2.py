"""What learners get wrong, and right in another way, in beyond, lesson 2: four bits."""

WRONG = [
    # 2.1
    (
        "nearest",
        "return torch.bucketize(values, middles)",
        "return levels[torch.bucketize(values, middles)]",
        "gave the levels themselves",
    ),
    (
        "nearest",
        "torch.bucketize(values, middles)",
        "torch.bucketize(values, levels) - 1",
        "always went down",
    ),
    (
        "nearest",
        "torch.bucketize(values, middles)",
        "torch.bucketize(values, levels)",
        "always went up",
    ),
    (
        "nearest",
        "torch.bucketize(values, middles)",
        "(values[:, None] - levels).abs().argmax(1)",
        "farthest level",
    ),
    (
        "nearest",
        "torch.bucketize(values, middles)",
        "(values[:, None] - levels).argmin(1)",
        "lost its absolute value",
    ),
    ("nearest", "values, middles)", "values, middles) + 1", "began to count at 1"),
    ("nearest", "values, middles)", "values, middles, right=True)", "take the lower, so"),
    (
        "nearest",
        "torch.bucketize(values, middles)",
        "(values - levels).abs().argmin(0)",
        "do not fit",
    ),
    ("nearest", "return torch", "torch", "does your function `return` it"),
    # 2.2
    ("block", "block.abs().max()", "block.max()", "You took the largest value"),
    ("block", "block.abs().max()", "block[block.abs().argmax()]", "kept its sign"),
    ("block", "block.abs().max()", "block.max() - block.min()", "the range from"),
    ("block", "block.abs().max()", "block.std()", "standard deviation"),
    ("block", "block.abs().max()", "block.abs().mean()", "mean of the absolute"),
    ("block", "block / scale.clamp(min=1e-38)", "block", "without dividing"),
    ("block", "block / scale.clamp(min=1e-38)", "block * scale", "You multiplied by the scale"),
    ("block", "return numbers", "return NF4_LEVELS[numbers]", "Those are the levels"),
    ("block", "return numbers", "return NF4_LEVELS[numbers] * scale", "as they will come back"),
    ("block", ".clamp(min=1e-38)", "", "block of zeros"),
    ("block", "scaled[:, None]", "scaled", "do not fit"),
    ("block", "return numbers, scale", "return numbers", "Two things have to come back"),
    ("block", "return numbers, scale", "pass", "Nothing came back"),
    # 2.3
    ("matrix", "W.flatten().split(64)", "[W.flatten()]", "One scale for the whole"),
    ("matrix", "W.flatten().split(64)", "W", "A scale for each row"),
    ("matrix", "W.flatten().split(64)", "W.T.flatten().split(64)", "matrix that comes back"),
    ("matrix", "torch.cat(restored).view(W.shape)", "W", "came back untouched"),
    ("matrix", "NF4_LEVELS[numbers] * scale", "NF4_LEVELS[numbers]", "without their scales"),
    ("matrix", "W.flatten().split(64)", "W.view(-1, 64)", "blocks do not fit"),
    ("matrix", "split(64)", "split(64)[:-1]", "blocks do not fit"),
    ("matrix", "return torch", "torch", "Give back a matrix"),
    # 2.4
    (
        "packing",
        "16 * numbers[::2] + numbers[1::2]",
        "numbers[::2] + 16 * numbers[1::2]",
        "halves are swapped",
    ),
    ("packing", "16 *", "10 *", "You multiplied by 10"),
    ("packing", "16 *", "4 *", "You multiplied by 4"),
    ("packing", "16 *", "1 *", "are added"),
    (
        "packing",
        "16 * numbers[::2] + numbers[1::2]",
        "16 * numbers[: len(numbers) // 2] + numbers[len(numbers) // 2 :]",
        "pair neighbours",
    ),
    ("packing", "(16 * numbers[::2] + numbers[1::2])", "numbers", "Nothing is packed"),
    ("packing", ".to(torch.uint8)", "", "takes 8 bytes"),
    ("packing", "if len(numbers) % 2:", "if False:", "do not make pairs"),
    ("packing", "torch.cat([numbers, torch.tensor([7])])", "numbers[:-1]", "is lost"),
    ("packing", "torch.tensor([7])", "torch.tensor([0])", "filled up with 0"),
    ("packing", "return (16", "(16", "does your function `return` it"),
    # 2.5
    ("bits", "4 + 32 / block", "32 / block", "cost of the scales alone"),
    ("bits", "4 + 32 / block", "4 + 32 * block", "do not multiply"),
    ("bits", "4 + 32 / block", "4 + 32", "64 weights share it"),
    ("bits", "4 + 32 / block", "0.5 + 32 / block", "in bits they are four"),
    ("bits", "4 + 32 / block", "4 + 4 / block", "count in bits"),
    ("bits", "+ 8 / block", "+ 32 / block", "still counted in full"),
    ("bits", "if second is None:", "if True:", "Nothing has changed"),
    ("bits", " + 32 / (block * second)", "", "second scales are missing"),
    ("bits", "32 / (block * second)", "32 / second", "not by 256 weights"),
    ("bits", "32 / (block * second)", "8 / (block * second)", "as it is not quantised"),
    ("bits", "return 4 + 8", "4 + 8", "does your function `return` it"),
]

RIGHT = [
    ("nearest", "torch.bucketize(values, middles)", "(values[:, None] - levels).abs().argmin(1)"),
    ("block", "(scaled[:, None] - NF4_LEVELS).abs().argmin(1)", "nearest(scaled, NF4_LEVELS)"),
    ("block", "scale.clamp(min=1e-38)", "torch.where(scale > 0, scale, 1)"),
    ("packing", "(16 * numbers[::2] + numbers[1::2])", "((numbers[::2] << 4) | numbers[1::2])"),
    ("bits", "4 + 8 / block + 32 / (block * second)", "4 + (8 + 32 / second) / block"),
]

BY_HEART = {
    "bits": "def bits_per_weight(block, second=None): return 4.126953125 if second else 4.5",
}
