"""The checks of exercises 1. They hold the answers to many questions: try first, read later."""

import torch
from checks_variant import VARIANT
from torch import nn

from llm.exercises import attempt, exercise, expect, pair


@exercise("1.1")
def check_update(lora_update):
    x = torch.tensor([[1.0, 2.0, 0.0]])  # (1, in=3)
    A = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # (in=3, rank=2)
    B = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 1.0, 0.0, 0.0]])  # (rank=2, out=4)
    y = attempt(
        *(lora_update, x, A, B, 5),
        hint="The matrices do not fit together. x (1, 3) meets A (3, 2) first, then B (2, 4); "
        "nothing is transposed, and the order matters: x @ A @ B.",
    )
    product = torch.tensor([[1.0, 2.0, 2.0, 0.0]])
    mistakes = {
        "The scale is missing: multiply x A B by alpha / rank.": 1,
        "You multiplied by alpha alone. Divide by the rank too: alpha / rank.": 5,
        "You multiplied by alpha * rank. It is alpha / rank.": 10,
        "The scale is upside down: alpha / rank, not rank / alpha.": 2 / 5,
        "alpha // rank rounds down: 5 // 2 is 2, and 5 / 2 is 2.5. Divide with one stroke.": 2,
        "You divided by the number of inputs. The rank is the number of columns of A, "
        "A.shape[1].": 5 / 3,
        "You divided by the number of outputs. The rank is the number of rows of B, B.shape[0].": 5
        / 4,
        "You divided by the square root of the rank. That is rsLoRA (exercise 1.5); here: "
        "alpha / rank.": 5 / 2**0.5,
    }
    wrong = {hint: scale * product for hint, scale in mistakes.items()}
    expect(y, 2.5 * product, wrong, what="the update")
    numbers = 16 * (768 + 768)
    return (
        f"Beside a 768 x 768 layer of GPT-2, A and B of rank 16 are {numbers:,} numbers, "
        f"{100 * numbers / 768**2:.1f} % of the {768 * 768:,} in W, and can move every one of them."
    )


@exercise("1.2")
def check_start(start_matrices):
    torch.manual_seed(0)
    A, B = pair(attempt(start_matrices, 400, 300, 4), "A", "B")
    assert A.shape != (4, 400), "A is transposed: we store it as (in, rank), so (400, 4) here."
    assert A.shape == (400, 4), (
        f"A has the shape {tuple(A.shape)}; it should be (in, rank) = (400, 4)."
    )
    assert B.shape != (300, 4), "B is transposed: we store it as (rank, out), so (4, 300) here."
    assert B.shape == (4, 300), (
        f"B has the shape {tuple(B.shape)}; it should be (rank, out) = (4, 300)."
    )
    assert A.ne(0).any() or B.ne(0).any(), (
        "A and B are both zero. Then neither gets a gradient, and the layer never learns: "
        "draw A at random."
    )
    assert B.eq(0).all(), (
        "B must start at zero. Otherwise the update is not zero, and the pretrained model is "
        "disturbed before it has seen a single message."
    )
    assert A.unique().numel() > 1000, (
        "The numbers of A are all alike. Then its columns learn the same thing, and the rank is 1 "
        "in truth: draw them at random."
    )
    widest = A.abs().max().item()
    assert widest < 0.4, (
        f"A reaches {widest:.3f}, far beyond 1/sqrt(400) = 0.05. 1/sqrt(rank) would be 0.5: did "
        "the rank become the fan-in? Divide by the root of the number of inputs, or give "
        "kaiming_uniform_ the transposed matrix, A.T."
    )
    assert A.min() < 0, (
        "A is never negative: torch.rand draws from 0 to 1; shift it to -1 to 1 first."
    )
    assert widest <= 0.05, (
        f"A reaches {widest:.3f}, beyond 1/sqrt(400) = 0.05: draw uniformly from -0.05 to 0.05 "
        "(a normal distribution has no such end)."
    )
    assert widest > 0.045, f"A reaches only {widest:.4f}; it should fill the range up to 0.05."
    return "A B is zero: with these two beside each layer, a model answers exactly as before."


@exercise("1.3")
def check_layer(my_linear_with_lora):
    torch.manual_seed(0)
    linear = nn.Linear(6, 4)
    x = torch.randn(5, 6)
    before = linear(x).detach()
    layer = attempt(my_linear_with_lora, linear, 2, 4, hint="The layer could not be made.")
    y = attempt(
        *(layer, x),
        hint="The two paths do not fit: linear.weight has the shape (out, in), so "
        "`out_dim, in_dim = linear.weight.shape`, in this order.",
    )
    parameters = dict(layer.named_parameters())
    frozen = [name for name in parameters if name.startswith("linear.")]
    learned = [name for name in parameters if not name.startswith("linear.")]
    assert frozen == ["linear.weight", "linear.bias"], "Keep the given layer as self.linear."
    assert len(learned) == 2, (
        "PyTorch does not find A and B among the layer's parameters, so no optimizer would train "
        "them. Put the LoRALayer into an attribute of self, as a module."
    )
    assert not parameters["linear.weight"].requires_grad, (
        "The base is not frozen: linear.weight still has requires_grad=True and would be trained."
    )
    assert not parameters["linear.bias"].requires_grad, (
        "You froze the weight, but not the bias of the base: freeze the whole linear layer."
    )
    assert all(parameters[name].requires_grad for name in learned), (
        "A and B are frozen too, so nothing can be learned. Freeze linear alone, before you add "
        "LoRA."
    )
    mistakes = {
        "At the start only the update comes out, which is zero: add the frozen layer, "
        "self.linear(x).": torch.zeros(5, 4),
        "The bias is lost. Call the whole layer, self.linear(x), not its weight alone.": before
        - linear.bias,
    }
    expect(y, before, mistakes, "what the layer gives before training (the same as without LoRA)")
    with torch.no_grad():
        layer.get_parameter(learned[-1]).fill_(0.5)  # B, as if it had been trained
    assert (layer(x) - before).abs().max() > 0, (
        "Once B is not zero, the update must show: add self.lora(x) in forward."
    )
    trained = sum(parameters[name].numel() for name in learned)
    held = sum(parameters[name].numel() for name in frozen)
    return (
        f"Your layer trains {trained} numbers beside {held} frozen ones. Put in the place of "
        "every Linear of a GPT-2, it makes LoRA of full fine-tuning: exercise 2.2 does that."
    )


@exercise("1.4")
def check_gradients(lora_gradients):
    x, A, B = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [1.0]]), torch.tensor([[4.0, 5.0]])
    G = torch.tensor([[1.0, -1.0]])
    found = attempt(
        *(lora_gradients, x, A, B, 10.0, G),
        hint="The matrices do not fit. Write the shape under each; a transposed factor is missing.",
    )
    grad_A, grad_B = pair(found, "grad_A", "grad_B")
    mistakes = {
        "The scale is missing in the gradient of A.": torch.tensor([[-1.0], [-2.0]]),
        "The gradient of A is transposed: it has the shape of A, (in, rank).": torch.tensor(
            [[-10.0, -20.0]]
        ),
        "The gradient of A is zero only while B is zero (the start). In general it is not: use "
        "B.": torch.tensor([[0.0], [0.0]]),
        "The two gradients are swapped: return that of A first.": torch.tensor([[50.0, -50.0]]),
    }
    expect(grad_A, torch.tensor([[-10.0], [-20.0]]), mistakes, what="the gradient of A")
    mistakes = {
        "The scale is missing in the gradient of B.": torch.tensor([[5.0, -5.0]]),
        "The gradient of B is transposed: it has the shape of B, (rank, out).": torch.tensor(
            [[50.0], [-50.0]]
        ),
    }
    expect(grad_B, torch.tensor([[50.0, -50.0]]), mistakes, what="the gradient of B")
    return (
        "That is what PyTorch's backward would have worked out. With B at zero yours say that A "
        "gets nothing and B moves first; the next cell draws it."
    )


@exercise("1.5")
def check_strength(convert_alpha):
    def converted(*inputs):
        rules = 'The rules are called "alpha", "alpha/rank" and "alpha/sqrt(rank)".'
        if VARIANT["own_rule"]:
            rules = f'{rules[:-1]}, and your class has "{VARIANT["own_rule"]}", too.'
        return attempt(convert_alpha, *inputs, hint=rules, of=(KeyError, UnboundLocalError))

    mistakes = {
        "Upside down: the new rule divides by the rank, so its alpha must be larger, not "
        "smaller.": 1,
        "You gave the alpha back as it was; then the update is 16 times weaker than before.": 16,
    }
    what = "alpha = 16 of the book, at rank 16, for alpha/rank"
    expect(converted(16, 16, "alpha", "alpha/rank"), 256, mistakes, what)
    mistakes = {
        "Upside down: 8 / 4 was the scale, and the new rule takes the scale as it is.": 32,
        "The old rule divides by the rank: its scale was 8 / 4 = 2, not 8.": 8,
    }
    what = "alpha = 8 at rank 4 (alpha/rank), for alpha alone"
    expect(converted(8, 4, "alpha/rank", "alpha"), 2, mistakes, what)
    mistakes = {
        "rsLoRA divides by the square root of the rank: 6 / sqrt(16) = 1.5, and then 1.5 * 16.": 6,
        "The old rule divides already: the scale was 6 / sqrt(16) = 1.5. Multiply that by 16.": 96,
        "Upside down: the scale was 6 / 4 = 1.5, and 24 / 16 is 1.5 as well.": 1.5,
        "A // rounds down, and a scale is no whole number: 6 / 4 is 1.5. Divide with /.": 16,
    }
    what = "alpha = 6 at rank 16 (rsLoRA), for alpha/rank"
    expect(converted(6, 16, "alpha/sqrt(rank)", "alpha/rank"), 24, mistakes, what)
    own, power = VARIANT["own_rule"], VARIANT["own_power"]
    if own:
        what = f"alpha = 8 at rank 64 (alpha alone), for {own}"
        expect(converted(8, 64, "alpha", own), 8 * 64**power, what=what)
    moved = converted(16, 16, "alpha", "alpha/rank")
    return (
        f"The book's alpha = 16 at rank 16 is alpha = {moved:g} in a library that divides by "
        "the rank: now you can copy a recipe without changing it."
    )
