"""The checks of exercises 4. They hold the answers to many questions: try first, read later."""

import torch
import torch.nn.functional as F
from torch import nn

from llm.data.tsv import Message
from llm.exercises import TINY, attempt, exercise, expect, same
from llm.lora.inject import replace_linear_with_lora
from llm.model.classifier import GPTClassifier


def tiny_with_lora() -> GPTClassifier:
    """A small classifier with LoRA of rank 2 beside all its layers."""
    torch.manual_seed(0)
    model = GPTClassifier(TINY)
    replace_linear_with_lora(model, rank=2, alpha=4)
    return model


@exercise("4.1")
def check_dora(dora_linear):
    torch.manual_seed(0)
    linear = nn.Linear(6, 4)
    W, b = linear.weight.detach().clone(), linear.bias.detach().clone()
    x = torch.randn(5, 6)
    layer = attempt(dora_linear, linear, 2, 4, hint="The layer could not be made.")
    assert "magnitude" in dict(layer.named_parameters()), (
        "self.magnitude is not a parameter, so no optimizer would train it: wrap it in "
        "nn.Parameter."
    )
    mistakes = {
        "The magnitude must start as the length of each row of W, not at 1; else the base is "
        "changed before training.": torch.ones(4),
        "That is the length of the columns (dim=0). An output neuron is a ROW of W: dim=1.": W.norm(
            dim=0
        ),
        "That is the squared length; take the root (or use .norm).": W.square().sum(1),
    }
    expect(layer.magnitude, W.norm(dim=1), mistakes, what="the magnitude at the start")
    forward_fails = (
        "forward fails. Lengths (out,) must become a column to multiply row by row: "
        "magnitude[:, None], and norm(dim=1, keepdim=True)."
    )
    y = attempt(layer, x, hint=forward_fails)

    def answer(weight, bias=b):
        return F.linear(x, weight, bias)

    m = W.norm(dim=1, keepdim=True)
    mistakes = {
        "You took the lengths of columns (dim=0). Each output neuron is a row: dim=1.": answer(
            m * W / W.norm(dim=0, keepdim=True)
        ),
        "The bias is lost: F.linear(x, weight, self.linear.bias).": answer(W, None),
        "The direction was not divided by its length, so the length counts twice.": answer(m * W),
        "The magnitude is missing: multiply the direction by it.": answer(W / m),
    }
    what = "the answer before training (the same as the base's)"
    expect(y, answer(W), mistakes, what)

    with torch.no_grad():
        layer.lora.B.normal_(generator=torch.Generator().manual_seed(1))
        layer.magnitude.mul_(2)
    turned = W + layer.lora.delta().detach()
    rows, columns = turned.norm(dim=1, keepdim=True), turned.norm(dim=0, keepdim=True)
    mistakes = {
        "You divided by the length of W alone. Divide by that of W + delta, or the length is no "
        "longer what magnitude says.": answer(2 * m * turned / m),
        "The update is missing: turn W by self.lora.delta() before you normalise.": answer(2 * W),
        "You took the lengths of columns (dim=0). Each output neuron is a row: dim=1.": answer(
            2 * m * turned / columns
        ),
        "You normalised W alone and added the update afterwards; normalise their sum.": answer(
            2 * m * (W / m) + layer.lora.delta().detach()
        ),
        "magnitude does not show: multiply the direction by it.": answer(turned / rows),
        "Use self.magnitude in forward, not the length of W: it has been trained.": answer(
            m * turned / rows
        ),
    }
    y = attempt(layer, x, hint=forward_fails)
    expect(y, answer(2 * m * turned / rows), mistakes, what="the answer of a trained DoRA layer")
    trained = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    return (
        f"Your layer trains {trained} numbers, LoRA's and one length for each of the 4 rows, and "
        "starts where the base is."
    )


@exercise("4.2")
def check_lora_plus(lora_plus_groups):
    model = tiny_with_lora()
    groups = attempt(lora_plus_groups, model, 0.01, 16)
    assert groups is not None, "Nothing came back: does your function `return` the groups?"
    form = 'a list of groups, {"params": [tensors], "lr": number}'
    assert isinstance(groups, list | tuple), f"Return {form}; yours is a {type(groups).__name__}."
    for group in groups:
        assert isinstance(group, dict) and {"params", "lr"} <= set(group), f"Return {form}."
    rates = {}
    for group in groups:
        for p in group["params"]:
            assert id(p) not in rates, "A tensor is in two groups; each belongs in exactly one."
            rates[id(p)] = group["lr"]
    kinds = {"A": [], "B": [], "head": [], "frozen": []}
    for name, p in model.named_parameters():
        kind = name[-1] if ".lora." in name else "head" if name.startswith("head.") else "frozen"
        kinds[kind].append(rates.get(id(p)))
    assert not any(kinds["frozen"]), (
        "Frozen weights are in a group. Leave out what has no requires_grad: the optimizer has no "
        "business with the base."
    )
    assert all(kinds["head"]), "The head is in no group, so it would stay random: it learns at lr."
    assert all(kinds["A"]) and all(kinds["B"]), "Some of the LoRA matrices are in no group."
    assert not same(max(kinds["A"]), 0.16), (
        "A learns fast. It is B, which starts at zero, that gets lr * ratio; A learns at lr."
        if same(min(kinds["B"]), 0.01)
        else "A and B both learn fast. Only B gets lr * ratio."
    )
    first = kinds["B"][0]
    assert not same(first, 0.01 / 16), "B learns slower, not faster: multiply by the ratio."
    assert not same(first, 0.01), "B learns as fast as A: give its group lr * ratio."
    assert same(min(kinds["B"]), 0.16), f"B should learn at 0.01 * 16 = 0.16, not at {first}."
    assert not same(max(kinds["head"]), 0.16), "The head learns at lr like A; only B is faster."
    assert same([min(kinds["A"]), min(kinds["head"])], [0.01, 0.01]), "A and the head learn at lr."
    return (
        f"{len(kinds['B'])} matrices B learn 16 times as fast as {len(kinds['A'])} matrices A and "
        "the head. The next cell trains with your groups."
    )


@exercise("4.3")
def check_adapter(adapter_of):
    generator = torch.Generator().manual_seed(1)
    model = tiny_with_lora()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, generator=generator)  # as if it had been trained
    adapter = attempt(adapter_of, model)
    assert adapter is not None, "Nothing came back: does your function `return` the dictionary?"
    assert isinstance(adapter, dict), "Return a dictionary, name -> tensor."
    names = set(model.state_dict())
    learned = {name for name in names if ".lora." in name or name.startswith("head.")}
    assert set(adapter) <= names, (
        f"{sorted(set(adapter) - names)[:1]} is no name of this model; keep the names as they are "
        "in state_dict(), or nobody can load the adapter."
    )
    assert not learned <= set(adapter) or set(adapter) == learned, (
        "The base is in it too. Then the adapter is as large as the model: keep A, B and the head."
    )
    assert "head.weight" in adapter, (
        "The head is missing. It was trained with the adapter; without it a loaded model answers "
        "with a random head."
    )
    assert "head.bias" in adapter, "The head's bias is missing."
    assert any(name.endswith(".B") for name in adapter), "B is missing: keep both, A and B."
    assert any(name.endswith(".A") for name in adapter), (
        "A is missing. A was random at the start, but it has been trained, and B fits to this A "
        "alone."
    )
    assert set(adapter) == learned, f"{sorted(learned - set(adapter))[0]} is missing."
    kept = {name: tensor.detach().clone() for name, tensor in adapter.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1  # the next task is trained
    assert all(torch.equal(adapter[name], kept[name]) for name in kept), (
        "The adapter changed while the model was trained on: its tensors are the model's own "
        "memory. Copy them with .clone()."
    )
    size = sum(tensor.numel() for tensor in adapter.values())
    whole = sum(p.numel() for name, p in model.named_parameters() if name not in adapter)
    return (
        f"Of this small model {size:,} numbers are kept and {whole:,} stay behind; of mini it is "
        "1.5 MB beside 40. One base, and a file for each task."
    )


@exercise("4.4")
def check_task(as_excited_task):
    given = [
        Message("Great news! Call me", 0),
        Message("see you at ten", 1),
        Message("WIN a phone Now!!!", 1),
        Message("!!!", 0),
        Message("so tired", 0),
        Message("really !? yes", 0),
    ]
    made = attempt(as_excited_task, given)
    assert made is not None, "Nothing came back: does your function `return` the list?"
    assert isinstance(made, list) and all(isinstance(m, Message) for m in made), (
        "Return a list of Message(text, label)."
    )
    assert not any("!" in message.text for message in made), (
        "The answer still stands in the text: an exclamation mark is left, and the model would "
        "only look for it. Remove them all."
    )
    assert all(message.text.strip() for message in made), "An empty message is left: drop it."
    assert len(made) == 5, f"{len(made)} messages came out, it should be 5: all but '!!!'."
    mistakes = {
        "All labels are 0. Did you look for the mark after it was removed?": [0, 0, 0, 0, 0],
        "Those are the old labels, for spam. The new label says whether there was a mark.": [
            *(0, 1, 1, 0, 0)
        ],
        "The labels are the wrong way round: 1 is for excited.": [0, 1, 0, 1, 0],
        "Only marks at the end of a message count for you; look for them anywhere.": [
            *(0, 0, 1, 0, 0)
        ],
        "The label is 1, however many marks there are.": [1, 0, 3, 0, 1],
    }
    expect([message.label for message in made], [1, 0, 1, 0, 1], mistakes, what="the labels")
    texts = [message.text for message in made]
    assert not any("  " in text or text != text.strip() for text in texts), (
        "A gap shows where a mark stood (two spaces, or one at an end): tidy with "
        "' '.join(text.split())."
    )
    kept = ["Great news Call me", "see you at ten", "WIN a phone Now", "so tired"]
    mistakes = {
        "Keep capitals as they are; the model may learn from them.": [text.lower() for text in kept]
    }
    expect(texts[:4], kept, mistakes, what="the texts")
    assert texts[4].replace(" ", "") == "really?yes", f"the last text became {texts[4]!r}"
    return "Nobody labelled anything, and there is a task. The next cell teaches it to mini."
