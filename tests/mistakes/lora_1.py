"""What learners get wrong, and right in another way, in lora, lesson 1: the layer."""

WRONG = [
    # 1.1
    ("update", "alpha / rank * (x @ A @ B)", "x @ A @ B", "scale is missing"),
    ("update", "alpha / rank *", "alpha *", "alpha alone"),
    ("update", "alpha / rank *", "alpha * rank *", "multiplied by alpha . rank"),
    ("update", "alpha / rank *", "rank / alpha *", "upside down"),
    ("update", "A.shape[1]", "A.shape[0]", "number of inputs"),
    ("update", "A.shape[1]", "B.shape[1]", "number of outputs"),
    ("update", "alpha / rank *", "alpha / rank**0.5 *", "square root of the rank"),
    ("update", "x @ A @ B", "x @ B @ A", "do not fit together"),
    ("update", "x @ A @ B", "x @ (A @ B).T", "do not fit together"),
    ("update", "x @ A @ B", "x @ A.T @ B.T", "do not fit together"),
    ("update", "return alpha", "y = alpha", "does your function `return` it"),
    ("update", "alpha / rank *", "alpha // rank *", "rounds down"),
    ("update", "A.shape[1]", "a.shape[1]", "name that it does not know.*'a' is not defined"),
    ("update", "A.shape[1]", "A.shap[1]", "Your code stopped.*AttributeError"),
    # 1.2
    ("start", "torch.zeros(rank, out_dim)", "torch.randn(rank, out_dim)", "B must start at zero"),
    ("start", "torch.zeros(rank, out_dim)", "torch.zeros(out_dim, rank)", "B is transposed"),
    ("start", "(2 * torch.rand(in_dim, rank) - 1)", "torch.zeros(in_dim, rank)", "both zero"),
    ("start", "in_dim**0.5", "rank**0.5", "did the rank become the fan-in"),
    (
        "start",
        "(2 * torch.rand(in_dim, rank) - 1) / in_dim**0.5",
        "nn.init.kaiming_uniform_(torch.empty(in_dim, rank), a=5**0.5)",
        "did the rank become the fan-in",
    ),
    ("start", "(2 * torch.rand(in_dim, rank) - 1)", "torch.rand(in_dim, rank)", "never negative"),
    ("start", "(2 * torch.rand(in_dim, rank) - 1)", "torch.randn(in_dim, rank)", "normal distrib"),
    ("start", "(2 * torch.rand(in_dim, rank) - 1)", "torch.ones(in_dim, rank)", "all alike"),
    ("start", "torch.rand(in_dim, rank)", "torch.rand(rank, in_dim)", "A is transposed"),
    ("start", "/ in_dim**0.5", "/ in_dim", "should fill the range"),
    ("start", "return A, B", "pass", "Nothing came back: end .* `return A, B`"),
    ("start", "return A, B", "return A", r"one tensor of the shape \(400, 4\)"),
    ("start", "return A, B", "return A, 0", "B should be a tensor, and yours is a int"),
    # 1.3
    ("layer", "self.linear.requires_grad_(False)", "pass", "base is not frozen"),
    ("layer", "self.linear.req", "self.linear.weight.req", "not the bias of the base"),
    (
        "layer",
        "self.lora = LoRALayer(in_dim, out_dim, rank, alpha)",
        "self.lora = LoRALayer(in_dim, out_dim, rank, alpha)\n        self.requires_grad_(False)",
        "A and B are frozen too",
    ),
    ("layer", "self.linear(x) + self.lora(x)", "self.lora(x)", "only the update comes out"),
    ("layer", "self.linear(x) + self.lora(x)", "self.linear(x)", "the update must show"),
    ("layer", "self.linear(x)", "F.linear(x, self.linear.weight)", "bias is lost"),
    ("layer", "out_dim, in_dim = linear", "in_dim, out_dim = linear", "shape .out, in."),
    ("layer", "self.lora(x)", "(x @ self.linear.weight.T) * 0", "the update must show"),
    ("layer", "return self.linear", "self.linear", "does your function `return` it"),
    # 1.4
    ("gradients", "scale * x.T", "x.T", "scale is missing in the gradient of A"),
    ("gradients", "scale * (x @ A).T", "(x @ A).T", "scale is missing in the gradient of B"),
    ("gradients", "return grad_A, grad_B", "return grad_B, grad_A", "swapped"),
    ("gradients", "return grad_A", "return grad_A.T", "gradient of A is transposed"),
    ("gradients", ", grad_B\n", ", grad_B.T\n", "gradient of B is transposed"),
    ("gradients", "return grad_A", "return 0 * grad_A", "only while B is zero"),
    ("gradients", "scale * x.T @", "scale * x @", "do not fit"),
    ("gradients", "grad_y @ B.T", "grad_y @ B", "do not fit"),
    ("gradients", "return grad_A, grad_B", "pass", "Nothing came back"),
    ("gradients", "return grad_A, grad_B", "return grad_A", "Two things have to come back"),
    # 1.5
    (
        "strength",
        "/ divisor[old_rule] * divisor[new_rule]",
        "* divisor[old_rule] / divisor[new_rule]",
        "Upside down",
    ),
    ("strength", "alpha / divisor[old_rule] * divisor[new_rule]", "alpha", "gave the alpha back"),
    ("strength", "alpha / divisor[old_rule]", "alpha", "old rule divides by the rank"),
    ("strength", "rank**0.5", "rank", "square root of the rank"),
    ("strength", "alpha / divisor[old_rule]", "alpha // divisor[old_rule]", "rounds down"),
    ("strength", '"alpha/sqrt(rank)": rank', '"sqrt": rank', "The rules are called"),
]

RIGHT = [
    ("update", "alpha / rank * (x @ A @ B)", "x @ (A @ B) * alpha / B.shape[0]"),
    (
        "start",
        "(2 * torch.rand(in_dim, rank) - 1) / in_dim**0.5",
        "nn.init.kaiming_uniform_(torch.empty(rank, in_dim), a=5**0.5).T",
    ),
    (
        "layer",
        "self.linear.requires_grad_(False)",
        "for p in linear.parameters(): p.requires_grad = False",
    ),
]

BY_HEART = {
    "update": "def lora_update(*a): return torch.tensor([[2.5, 5.0, 5.0, 0.0]])",
}
