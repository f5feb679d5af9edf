"""The checks of exercises 3. They hold the answers to many questions: try first, read later."""

import torch
import torch.nn.functional as F
from torch import nn

from llm.data.batching import Batch
from llm.exercises.checks import TINY, attempt, exercise
from llm.model.classifier import GPTClassifier


def still_broken(found: list[str], of: int) -> None:
    """Raise AssertionError with the first of the bugs that are left, and how many there are."""
    if not found:
        return
    count = "One bug is left" if len(found) == 1 else f"{len(found)} of {of} bugs are left"
    first = "" if len(found) == 1 else " The first:"
    raise AssertionError(f"{count}.{first} {found[0]}")


# --- 3.1 ---


@exercise("3.1")
def check_mended_lora(mended_inject):
    model, inputs, before = tiny_model()
    attempt(mended_inject, model, ["W_value", "fc2"], 2, 8)
    layers = [layer for layer in model.modules() if hasattr(layer, "linear") and _has_lora(layer)]
    assert len(layers) == 2 * TINY.n_layers, (
        f"{len(layers)} layers have LoRA, {2 * TINY.n_layers} should: two in each of "
        f"{TINY.n_layers} blocks. That part of the broken code was sound."
    )
    bugs = []
    if not torch.allclose(model(*inputs), before, atol=1e-6):
        bugs.append(
            "Right after the injection the model answers otherwise than before: training would "
            "start from a disturbed base. What has to be zero at the start?"
        )
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    own = [n for n in trained if n.rpartition(".")[2] not in ("A", "B") and n[:5] != "head."]
    if own:
        bugs.append(
            f"{len(own)} tensors of the base are still trained, {sorted(own)[0]} among them. An "
            "adapter that holds A, B and the head would not hold what they have learned."
        )
    _nothing_else_is_broken(model, layers)

    for layer in layers:  # as if they had been trained
        nn.init.normal_(layer.B)
    answers = model(*inputs).detach()
    unmerged = [layer.linear.weight.clone() for layer in layers]
    for layer in layers:
        attempt(layer.merge)
    wanted = [W + layer.scale * (layer.A @ layer.B).T for W, layer in zip(unmerged, layers)]
    assert all(_close(layer.linear.weight, W) for layer, W in zip(layers, wanted)), (
        "merge() no longer adds the update to W as it should. The broken one did, the first time."
    )
    if not torch.allclose(model(*inputs), answers, atol=1e-4):
        bugs.append(
            "After merging the model answers otherwise than before: the update is in W now, and "
            "forward adds it once more."
        )
    for layer in layers:
        merge_again(layer)
    if not all(_close(layer.linear.weight, W) for layer, W in zip(layers, wanted)):
        bugs.append(
            "A second merge() adds the update to W again. Nobody wants that, and nothing says so: "
            "refuse it with a ValueError, or do nothing."
        )
    still_broken(bugs, of=4)
    return (
        "All four are mended. Not one of them had raised an error, and each lets the loss fall: "
        "what finds them is asking what must stay the same."
    )


def tiny_model() -> tuple[GPTClassifier, tuple, torch.Tensor]:
    """A small classifier, a batch, and its answers."""
    torch.manual_seed(0)
    model = GPTClassifier(TINY)
    inputs = torch.randint(0, 61, (4, 9)), torch.tensor([9, 4, 1, 6])
    return model, inputs, model(*inputs).detach()


def _has_lora(layer: nn.Module) -> bool:
    return all(isinstance(getattr(layer, name, None), nn.Parameter) for name in ("A", "B"))


def _nothing_else_is_broken(model: nn.Module, layers: list[nn.Module]) -> None:
    assert all(layer.A.requires_grad and layer.B.requires_grad for layer in layers), (
        "Mended too much: A and B are frozen as well now, so nothing can be learned. Freeze before "
        "the layers are put in."
    )
    assert model.head.weight.requires_grad, (
        "Mended too much: the head is frozen. It starts from random numbers and has to learn."
    )
    assert all(layer.A.any() for layer in layers), (
        "Mended too much: A is zero. With B at zero as well, neither ever gets a gradient."
    )
    assert all(layer.scale == 4 for layer in layers), (
        "The scale was right: alpha / rank, 8 / 2 = 4. Leave it as self.scale."
    )


def merge_again(layer: nn.Module) -> None:
    try:
        layer.merge()
    except NotImplementedError:
        raise
    except (ValueError, RuntimeError):
        pass


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-5)


# --- 3.2 ---

STEPS, EVERY, RATE = 6, 2, 0.5


@exercise("3.2")
def check_mended_training(mended_training):
    parts = small_parts()
    spy = Spy(*parts)
    score = attempt(mended_training, spy, *parts, STEPS, RATE, EVERY)
    assert score is not None, "Nothing came back: end with the accuracy on the test messages."
    assert len(spy.weights) == STEPS and spy.validated + spy.tested >= STEPS // EVERY, (
        f"The model was trained for {len(spy.weights)} steps; {STEPS} were asked for, and a look "
        f"at the scores after every {EVERY}. That part of the broken code was sound."
    )
    bugs = []
    final = spy.table.detach()
    padded = not torch.equal(final[0], spy.weights[0][0])
    if padded:
        bugs.append(
            "The answer is read where a shorter message has only padding: the padding token has "
            "been trained. Where does the last *real* token stand?"
        )
    if gradients_add_up(spy, parts[0], padded):
        bugs.append(
            "Step 2 goes along the gradients of steps 1 and 2 together: backward() adds to what "
            "is there. What has to happen before it?"
        )
    if not all(spy.training_while_trained):
        first = spy.training_while_trained.index(False) + 1
        bugs.append(
            f"From step {first} on the model is trained in evaluation mode, without dropout: "
            "eval() stays on until someone calls train()."
        )
    assert not any(spy.training_while_measured), (
        "Mended too much: dropout acts while the accuracy is measured. Call model.eval() before."
    )
    if spy.tested > 1:
        bugs.append(
            f"The test messages were looked at {spy.tested} times, and the best moment was chosen "
            "by them: the score is too good. Choose by validation, look at the test once."
        )
    elif spy.validated:
        assert score == 0.75, f"The test accuracy is 0.75 here, and you gave back {score}."
    if torch.equal(final, spy.after[-1]):
        bugs.append(
            "At the end the model has the weights of the last step, not of the best one: "
            "state_dict() hands out the weights themselves, which training goes on to change. Keep "
            "a copy."
        )
    still_broken(bugs, of=5)
    assert torch.equal(final, spy.after[1]), (
        "The best validation accuracy came after step 4, so its weights are to be kept, and the "
        "model has others at the end."
    )
    return (
        "All five are mended. The loop before had run without an error and would have reported a "
        "better score: that it is better is no sign that it is right."
    )


def small_parts() -> tuple[Batch, Batch, Batch]:
    """Training, validation and test: four short messages each, padded with token 0."""
    lengths, labels = torch.tensor([3, 1, 2, 2]), torch.tensor([0, 1, 0, 1])
    rows = torch.tensor([[1, 2, 3], [4, 0, 0], [5, 3, 0], [1, 4, 0]])
    train = Batch(rows, lengths, labels)
    return train, Batch(rows + 6 * (rows > 0), lengths, labels), Batch(
        rows + 12 * (rows > 0), lengths, labels
    )  # fmt: skip


class Spy(nn.Module):
    """A table of scores in place of a model, (batch, tokens) -> (batch, tokens, 2). It remembers.

    On validation and test it answers by a script, so that the best step is known: after step 4 by
    validation, after step 2 by the test.
    """

    def __init__(self, train: Batch, validation: Batch, test: Batch):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(20, 2, generator=generator))
        self.validation, self.test = validation, test
        self.weights: list[torch.Tensor] = []  # before each step
        self.after: list[torch.Tensor] = []  # at each look at the scores
        self.training_while_trained: list[bool] = []
        self.training_while_measured: list[bool] = []
        self.validated = self.tested = 0

    def forward(self, ids):
        """Scores at every token, of the table or of the script."""
        for part in (self.validation, self.test):
            if torch.equal(ids, part.ids):
                return self.scripted(part)
        self.weights.append(self.table.detach().clone())
        self.training_while_trained.append(self.training)
        return self.table[ids]

    def scripted(self, part: Batch) -> torch.Tensor:
        """Answers of which a known share is right, wherever they are read."""
        self.training_while_measured.append(self.training)
        step = min(len(self.weights), STEPS)
        if len(self.after) < step // EVERY:
            self.after.append(self.table.detach().clone())
        if part is self.validation:
            self.validated += 1
            right = {2: 2, 4: 4, 6: 3}.get(step, 0)
        else:
            self.tested += 1
            right = {2: 4, 4: 2, 6: 3}.get(step, 0)
        labels = torch.where(torch.arange(4) < right, part.labels, 1 - part.labels)
        return F.one_hot(labels, 2).float()[:, None].expand(-1, part.ids.shape[1], -1)


def gradients_add_up(spy: Spy, train: Batch, padded: bool) -> bool:
    """Whether the second step also went along the first step's gradient."""
    places = train.ids.shape[1] - 1 if padded else train.lengths - 1

    def gradient(table):
        table = table.clone().requires_grad_()
        F.cross_entropy(table[train.ids[torch.arange(4), places]], train.labels).backward()
        return table.grad

    first, second = (gradient(table) for table in spy.weights[:2])
    moved = spy.weights[2] - spy.weights[1]
    return torch.allclose(moved, -RATE * (first + second), atol=1e-5)
