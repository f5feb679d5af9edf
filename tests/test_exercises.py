"""The exercises: solutions score in full, untouched ones nothing, and mistakes are named."""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

nbgrader_utils = pytest.importorskip("nbgrader.utils", reason="nbgrader is not installed")

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SOLUTIONS, STUDENT = NOTEBOOKS / "solutions" / "lora", NOTEBOOKS / "exercises" / "lora"
NAMES = sorted(path.name for path in SOLUTIONS.glob("*.ipynb"))
CHECKS = sorted(path.name for path in SOLUTIONS.glob("checks*.py"))
# Checks that the learner's copy must not show, and what shows that a solution is left in it.
MARKS = ("BEGIN SOLUTION", "END SOLUTION", "BEGIN HIDDEN TESTS", "END HIDDEN TESTS")

# (exercise, what stands in the solution, what a learner writes, the words that name the mistake)
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

# Other ways to a right answer, which the checks must not refuse.
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
    ("merging", 'raise ValueError("merged already")', 'raise RuntimeError("merged already")'),
    (
        "merging",
        "self.linear.weight += self.lora.scale * (self.lora.A @ self.lora.B).T",
        "self.linear.weight.copy_(self.linear.weight + self.lora.delta())",
    ),
    (
        "low-rank",
        "A = Vh[:rank].T  # (in, rank)\n    B = (U[:, :rank] * s[:rank]).T",
        "A = (s[:rank, None].sqrt() * Vh[:rank]).T\n    B = (U[:, :rank] * s[:rank].sqrt()).T",
    ),
    (
        "last-token",
        "hidden[torch.arange(len(hidden)), lengths - 1]",
        "torch.stack([row[n - 1] for row, n in zip(hidden, lengths)])",
    ),
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


@cache
def cells(folder: Path, name: str) -> dict[str, nbformat.NotebookNode]:
    """The cells of a notebook that nbgrader knows, by their name, in order."""
    notebook = nbformat.read(folder / name, as_version=4)
    known = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
    return {cell.metadata.nbgrader.grade_id: cell for cell in known}


def is_check(cell) -> bool:
    return cell.metadata.nbgrader.grade


EXERCISES = {
    exercise.removesuffix("-check"): name
    for name in NAMES
    for exercise, cell in cells(SOLUTIONS, name).items()
    if is_check(cell)
}


@pytest.fixture(scope="module", autouse=True)
def beside_the_notebooks():
    """`import checks`, as a notebook does that runs in its own folder."""
    sys.path.insert(0, str(SOLUTIONS))
    yield
    sys.path.remove(str(SOLUTIONS))
    for name in CHECKS:
        sys.modules.pop(name.removesuffix(".py"), None)


@cache
def prepared(name: str) -> dict:
    """What the notebook's first cell defines."""
    namespace: dict = {"__name__": "__main__"}
    execute(cells(SOLUTIONS, name)["setup"].source, namespace)
    return namespace


def execute(source: str, namespace: dict) -> None:
    lines = (line for line in source.splitlines() if not line.startswith("%"))
    exec(compile("\n".join(lines), "cell", "exec"), namespace)


def failures(name: str, replaced: dict[str, str], folder: Path = SOLUTIONS) -> dict[str, Exception]:
    """Run all exercises of a notebook; which checks fail, and how.

    replaced: cells to run in another wording. folder: whose checks and answers to run.
    """
    namespace = dict(prepared(name))
    torch.manual_seed(1)
    failed = {}
    for exercise, cell in cells(folder, name).items():
        if exercise == "setup":
            continue
        try:
            execute(replaced.get(exercise, cell.source), namespace)
        except Exception as error:
            failed[exercise] = error
    return failed


def answer(exercise: str, old: str, new: str) -> str:
    """The solution of an exercise with something else in one place."""
    source = cells(SOLUTIONS, EXERCISES[exercise])[exercise].source
    assert old in source, f"{exercise}: {old!r} is not in the solution any more"
    return source.replace(old, new)


def test_there_is_a_wrong_answer_for_every_exercise():
    assert set(EXERCISES) == {exercise for exercise, *_ in WRONG}
    assert len(EXERCISES) >= 12


@pytest.mark.parametrize("name", NAMES)
def test_solutions_pass_every_check_and_are_told_so(name, capsys):
    assert failures(name, {}) == {}
    said = capsys.readouterr().out
    right = re.findall(r"^(\d\.\d): right\. [A-Z1-9]", said, re.M)
    assert right == [f"{name[0]}.{number + 1}" for number in range(len(right))]
    assert len(right) == sum(EXERCISES[exercise] == name for exercise in EXERCISES)
    assert max(map(len, said.splitlines())) < 100


@pytest.mark.parametrize("name", NAMES)
def test_no_mistake_that_a_check_knows_stands_in_the_learners_notebook(name):
    for cell in filter(is_check, cells(STUDENT, name).values()):
        assert re.fullmatch(r"check_\w+\(\w+\)", cell.source), cell.source


@pytest.mark.parametrize("name", NAMES)
def test_untouched_exercises_pass_no_check(name):
    failed = failures(name, {}, STUDENT)
    assert set(failed) == {exercise for exercise, c in cells(STUDENT, name).items() if is_check(c)}
    for error in failed.values():  # kindly, and not a hint about a mistake nobody made
        assert isinstance(error, NotImplementedError)
        assert re.match(r"\d\.\d is not solved yet\. Write your code where", str(error))


@pytest.mark.parametrize("exercise, old, new, hint", WRONG)
def test_a_typical_mistake_is_named_and_fails_its_own_exercise_alone(exercise, old, new, hint):
    name, check = EXERCISES[exercise], f"{exercise}-check"
    # As the learner sees it: without the hidden tests.
    failed = failures(
        name,
        {exercise: answer(exercise, old, new), check: cells(STUDENT, name)[check].source},
    )
    assert set(failed) == {check}
    assert isinstance(failed[check], AssertionError)
    assert re.search(hint, str(failed[check])), str(failed[check])


@pytest.mark.parametrize("exercise, old, new", RIGHT)
def test_another_right_answer_is_accepted(exercise, old, new):
    assert failures(EXERCISES[exercise], {exercise: answer(exercise, old, new)}) == {}


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_learned_by_heart_fails_in_the_hidden_tests(name):
    """Whoever returns what the visible check asks for, and nothing else, gets no points."""
    by_heart = {
        "update": "def lora_update(*a): return torch.tensor([[2.5, 5.0, 5.0, 0.0]])",
        "counting": "def count_lora(c, t, r): return 294_912 if len(t) == 2 else 46_080",
        "memory": "def training_bytes(*a): "
        "return {'weights': 4000, 'gradients': 40, 'optimizer': 80}",
        "enough": "def rank_for_share(s, share): return {0.78: 2, 0.6: 1, 0.97: 4}[share]",
        "choice": "def choose(plans, budget): "
        "return next(p for p in plans if p['name'] == 'thrifty')",
        "budget": "def largest_rank(s, t, n, b): return {70_000: 8, 10_000: 0, 10_240: 1}[b]",
    }
    mine = {exercise: code for exercise, code in by_heart.items() if EXERCISES[exercise] == name}
    visible = {
        f"{exercise}-check": cells(STUDENT, name)[f"{exercise}-check"].source for exercise in mine
    }
    assert failures(name, {**mine, **visible}) == {}
    assert set(failures(name, mine)) == set(visible)


def test_dora_and_lora_plus_agree_with_peft():
    from peft import LoraConfig, get_peft_model
    from peft.optimizers import create_loraplus_optimizer

    namespace = dict(prepared("4_variants_and_tasks.ipynb"))
    for exercise in ("dora", "lora-plus"):
        execute(cells(SOLUTIONS, "4_variants_and_tasks.ipynb")[exercise].source, namespace)
    torch.manual_seed(0)
    base = torch.nn.Linear(7, 5)
    ours = namespace["DoRALinear"](torch.nn.Linear(7, 5), rank=3, alpha=6)
    ours.linear.load_state_dict(base.state_dict())
    ours.magnitude.data.copy_(base.weight.norm(dim=1) * 1.3)
    torch.nn.init.normal_(ours.lora.B)
    config = LoraConfig(r=3, lora_alpha=6, use_dora=True, target_modules=["0"])
    theirs = get_peft_model(torch.nn.Sequential(base), config).eval()
    for name, parameter in theirs.named_parameters():
        for key, value in {
            "lora_A": ours.lora.A.T,
            "lora_B": ours.lora.B.T,
            "magnitude": ours.magnitude,
        }.items():
            if key in name:
                parameter.data.copy_(value)
    x = torch.randn(4, 7)
    torch.testing.assert_close(ours(x), theirs(x))

    optimizer = create_loraplus_optimizer(
        theirs, torch.optim.AdamW, lr=0.01, loraplus_lr_ratio=16, loraplus_weight_decay=0.0
    )
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    fast = {n for n, p in theirs.named_parameters() if rates.get(id(p)) == 0.01 * 16}
    # peft lets everything with one dimension learn fast as well, here DoRA's magnitude.
    assert {name.split(".")[-3] for name in fast} == {"lora_B", "lora_magnitude_vector"}
    from checks_4 import tiny_with_lora

    groups = namespace["lora_plus_groups"](tiny_with_lora(), 0.01, 16)
    assert {group["lr"] for group in groups} == set(rates.values())


# --- the files ---


def is_demonstration(cell) -> bool:
    """A See-it cell: it trains and draws; no point depends on it."""
    return "demo" in cell.metadata.get("tags", [])


def said(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def code_of(path: Path, demonstrations: bool) -> nbformat.NotebookNode:
    """A notebook's code alone, with the See-it cells or without."""
    notebook = nbformat.read(path, as_version=4)
    cells_kept = [c for c in notebook.cells if demonstrations or not is_demonstration(c)]
    notebook.cells = [c for c in cells_kept if c.cell_type == "code"]
    return notebook


@pytest.mark.parametrize(
    "folder, share", [(SOLUTIONS, 1), (STUDENT, 0)], ids=["solved", "untouched"]
)
def test_points_as_nbgrader_counts_them_and_every_see_it_cell_shows_something(
    folder, share, monkeypatch
):
    """All four notebooks in one kernel that forgets one before the next, with the hidden tests of
    the source. The See-it cells of the solutions run with one step of training each: what they
    show is not checked, that they show it is."""
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parent))  # the kernel inherits it
    monkeypatch.setenv("EXERCISE_STEPS", "1")
    notebook = nbformat.v4.new_notebook()
    for name in NAMES:
        part = code_of(folder / name, demonstrations=folder == SOLUTIONS)
        for number, cell in enumerate(part.cells):
            if nbgrader_utils.is_grade(cell):
                cell.source = cells(SOLUTIONS, name)[cell.metadata.nbgrader.grade_id].source
            cell.id = f"notebook-{name[0]}-cell-{number}"
        forget = nbformat.v4.new_code_cell("%reset -f", id=f"notebook-{name[0]}-forgotten")
        notebook.cells += [*part.cells, forget]
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, resources=where, allow_errors=True).execute()
    graded = [c for c in notebook.cells if nbgrader_utils.is_grade(c)]
    outputs = [output for c in notebook.cells for output in c.get("outputs", [])]
    errors = [output for output in outputs if output.output_type == "error"]
    assert len(errors) == (0 if folder == SOLUTIONS else len(EXERCISES)), errors
    if folder == SOLUTIONS:  # what is committed is what a check says today
        committed = [c for name in NAMES for c in cells(SOLUTIONS, name).values() if is_check(c)]
        assert [said(cell) for cell in graded] == [said(cell) for cell in committed]
    for error in errors:  # one sentence, and no traceback
        assert "is not solved yet" in error.traceback[0] and len(error.traceback) <= 2
    scores = [nbgrader_utils.determine_grade(cell) for cell in graded]
    assert len(scores) == len(EXERCISES)
    assert [got for got, _ in scores] == [share * most for _, most in scores]
    assert sum(most for _, most in scores) == 55
    shown = [cell for cell in notebook.cells if is_demonstration(cell)]
    assert {cell.id[: len("notebook-1")] for cell in shown} == {
        f"notebook-{name[0]}" for name in NAMES if folder == SOLUTIONS
    }
    for cell in shown:
        assert cell.outputs, cell.source


def test_a_teacher_can_use_nbgrader_as_it_is(tmp_path):
    """Generate, hand in, grade, on one short notebook: the commands of TEACHING.md."""
    for file in ("nbgrader_config.py", "feedback_page.py"):
        shutil.copy(NOTEBOOKS / file, tmp_path)
    source = tmp_path / "solutions" / "lora"
    source.mkdir(parents=True)
    for file in CHECKS:
        shutil.copy(SOLUTIONS / file, source)
    short = code_of(SOLUTIONS / NAMES[0], demonstrations=False)
    formula = r"$$\underbrace{x\,W^\top}_{\text{frozen}} + \tfrac{\alpha}{r}$$ and `$x$`"
    short.cells.append(nbformat.v4.new_markdown_cell(formula, id="formula"))
    nbformat.write(short, source / NAMES[0])
    environment = {**os.environ, "PYTHONPATH": str(NOTEBOOKS.parent), "EXERCISE_STEPS": "1"}
    # nbgrader calls alembic, which lies beside Python.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"

    def nbgrader(*words):
        command = [sys.executable, "-m", "nbgrader", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    nbgrader("generate_assignment", "lora")
    handed_in = tmp_path / "submitted" / "ada" / "lora"
    shutil.copytree(source, handed_in)
    # A learner who switches the checks off: nbgrader puts its own back before it grades.
    mistakes = {"update": ("alpha / rank *", "alpha *"), "strength": ("rank**0.5", "root")}
    wrong = nbformat.read(handed_in / NAMES[0], as_version=4)
    for cell in wrong.cells:
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
        if grade_id in mistakes:
            cell.source = cell.source.replace(*mistakes[grade_id])
        if grade_id == "update-check":
            cell.source = "pass"
    nbformat.write(wrong, handed_in / NAMES[0])
    (handed_in / "checks_1.py").write_text("def check_update(*answers): pass\n")
    nbgrader("autograde", "lora")
    nbgrader("generate_feedback", "lora")

    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{tmp_path / 'gradebook.db'}") as book:
        submission = book.find_submission("lora", "ada")
        points = {g.name: g.auto_score for part in submission.notebooks for g in part.grades}
        assert points.pop("update-check") == points.pop("strength-check") == 0
        assert (submission.score, submission.max_score) == (sum(points.values()), 14)
        assert submission.score == 10
    graded = nbformat.read(tmp_path / "autograded" / "ada" / "lora" / NAMES[0], as_version=4)
    shown = [o for cell in graded.cells for o in cell.get("outputs", []) if "traceback" in o]
    alpha, name = ("\n".join(output.traceback) for output in shown)
    assert alpha == ("1.1: You multiplied by alpha alone. Divide by the rank too: alpha / rank.")
    assert name.startswith("1.5: Your code uses a name that it does not know.")
    assert "of your cell:" in name and name.count("\n") <= 2
    page = (tmp_path / "feedback/ada/lora" / NAMES[0]).with_suffix(".html").read_text()
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page)  # nothing to fetch
    assert page.count("data:image/svg+xml") == 1 and "<code>$x$</code>" in page
    assert "plainly" in page  # the hidden tests, unless told otherwise (nbgrader_config.py)


def test_the_student_version_is_what_the_generator_makes(tmp_path):
    """If this fails: python notebooks/make_exercises.py"""
    shutil.copy(NOTEBOOKS / "nbgrader_config.py", tmp_path)
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    shutil.copytree(NOTEBOOKS / "solutions", tmp_path / "solutions", ignore=ignore)
    sys.path.insert(0, str(NOTEBOOKS))
    try:
        from make_exercises import release
    finally:
        sys.path.remove(str(NOTEBOOKS))
    release(tmp_path)
    made = sorted(path.name for path in (tmp_path / "exercises" / "lora").iterdir())
    kept = sorted(p.name for p in STUDENT.iterdir() if p.suffix in (".ipynb", ".py"))
    assert made == kept == sorted([*NAMES, *CHECKS])
    for name in made:
        fresh, committed = (tmp_path / "exercises" / "lora" / name), STUDENT / name
        assert fresh.read_text() == committed.read_text(), (
            f"{name}: run notebooks/make_exercises.py"
        )


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed(name):
    solved, student = (nbformat.read(f / name, as_version=4) for f in (SOLUTIONS, STUDENT))
    text = json.dumps(student)
    assert not [mark for mark in MARKS if mark in text]
    for cell in student.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
    for cell in solved.cells:
        if cell.cell_type == "code":
            assert cell.execution_count, f"{cell.source[:60]!r} has not been run"
            assert not [
                o for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"
            ]
        if "demo" in cell.metadata.get("tags", []):
            assert cell.outputs, f"{cell.source[:60]!r} shows nothing"
    for path in ("/home/", "/root", "/tmp", "site-packages"):
        assert path not in json.dumps(solved), path


def test_the_teachers_page_tells_the_points():
    page = (NOTEBOOKS / "TEACHING.md").read_text()
    for name in NAMES:
        for cell in nbformat.read(SOLUTIONS / name, as_version=4).cells:
            for number, title, points in re.findall(
                r"^## (\d\.\d) (.+) · (\d) points$", cell.source, re.M
            ):
                assert f"| {number} | {title} | {points} |" in page
    points = {
        e: c.metadata.nbgrader.points
        for n in NAMES
        for e, c in cells(SOLUTIONS, n).items()
        if is_check(c)
    }
    assert f"{len(points)} exercises, {sum(points.values())} points" in page
