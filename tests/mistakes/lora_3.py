"""What learners get wrong, and right in another way, in lora, lesson 3: the rank."""

WRONG = [
    # 3.1
    ("low-rank", "(U[:, :rank] * s[:rank]).T", "U[:, :rank].T", "strengths s are forgotten"),
    ("low-rank", "A = Vh[:rank].T", "A = Vh[:rank].T * s[:rank]", "in it twice"),
    (
        "low-rank",
        "A = Vh[:rank].T  # (in, rank)\n    B = (U[:, :rank] * s[:rank]).T",
        "A = Vh[-rank:].T\n    B = (U[:, -rank:] * s[-rank:]).T",
        "weakest pieces",
    ),
    ("low-rank", "* s[:rank]", "* s[:rank].sqrt()", "by their root only"),
    ("low-rank", "Vh[:rank].T", "Vh[:, :rank]", "took columns of Vh"),
    ("low-rank", "Vh[:rank].T", "Vh[:rank]", "A is transposed"),
    ("low-rank", "(U[:, :rank] * s[:rank]).T", "U[:, :rank] * s[:rank]", "B is transposed"),
    ("low-rank", "U[:, :rank] * s[:rank]", "U[:rank] * s[:rank]", "of U they are the COLUMNS"),
    ("low-rank", "U[:, :rank] * s", "U.T[:, :rank] * s", "the directions are not"),
    ("low-rank", "return A, B", "pass", "Nothing came back"),
    ("low-rank", "return A, B", "return (A @ B).T", r"one tensor of the shape \(6, 9\)"),
    # 3.2
    (
        "enough",
        "strengths.square().cumsum(0) / strengths.square().sum()",
        "strengths.cumsum(0) / strengths.sum()",
        "Square the strengths",
    ),
    ("enough", ".sum()) + 1", ".sum())", "Off by one"),
    ("enough", "int((held < share).sum()) + 1", "float(held[held >= share][0])", "not a rank"),
    # 3.3
    ("budget", "budget // at_rank_1", "-(-budget // at_rank_1)", "Rounded up"),
    ("budget", "budget // at_rank_1", "budget / at_rank_1", "whole number"),
    ("budget", "n_layers * sum(", "sum(", "all 8 blocks together"),
    ("budget", "sum(sum(shapes[name]) for name in targets)", "sum(shapes[targets[0]])", "for each"),
    (
        "budget",
        "sum(sum(shapes[name]) for name in targets)",
        "sum(shapes[name][0] * shapes[name][1] for name in targets)",
        "not multiplied",
    ),
    ("budget", "budget // at_rank_1", "max(1, budget // at_rank_1)", "the answer is 0"),
    ("budget", "budget // at_rank_1", "(budget - 1) // at_rank_1", "met exactly"),
    # 3.4
    ("choice", '(plan["validation_f1"],', '(plan["test_f1"],', "chose by the test score"),
    ("choice", ' if plan["parameters"] <= budget', "", "exceeds the budget"),
    ("choice", ', -plan["parameters"])', ",)", "equally good"),
    ("choice", "max(", "min(", "take the highest"),
    ("choice", "return max", 'return ""; max', "Return the whole plan"),
    ("choice", "return max", "max", "does your function `return`"),
]

RIGHT = [
    (
        "low-rank",
        "A = Vh[:rank].T  # (in, rank)\n    B = (U[:, :rank] * s[:rank]).T",
        "A = (s[:rank, None].sqrt() * Vh[:rank]).T\n    B = (U[:, :rank] * s[:rank].sqrt()).T",
    ),
]

BY_HEART = {
    "enough": "def rank_for_share(s, share): return {0.78: 2, 0.6: 1, 0.97: 4}[share]",
    "choice": "def choose(plans, budget): return next(p for p in plans if p['name'] == 'thrifty')",
    "budget": "def largest_rank(s, t, n, b): return {70_000: 8, 10_000: 0, 10_240: 1}[b]",
}
