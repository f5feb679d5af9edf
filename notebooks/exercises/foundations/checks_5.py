"""The checks of exercises 5. They hold the answers to many questions: try first, read later."""

from functools import cache

import torch
from torch import nn
from wrong_5 import best, by_hand, f1_of, other_loops, other_reports, other_thresholds

from llm import load_base
from llm.data.batching import collate, encode_messages
from llm.data.tokenizer import mini_tokenizer
from llm.exercises import attempt, exercise, expect, same

MESSAGE = "You have won a £500 prize! Call 09061 now to claim it."
ALONE = "ok see you"


@cache
def mini():
    """The bundled base, to be read and not trained."""
    return load_base("mini").eval().requires_grad_(False)


@cache
def two_messages():
    """A long and a short one through `mini`: hidden (2, tokens, emb_dim), lengths (2,)."""
    batch = collate(encode_messages(mini_tokenizer(), [MESSAGE, ALONE], None, 128), [0, 1])
    return mini().hidden_states(batch.ids), batch.lengths


@exercise("5.1")
def check_one_vector(one_vector):
    lengths = torch.tensor([4, 1, 3])
    hidden = torch.arange(12.0).view(3, 4, 1).repeat(1, 1, 2)  # place 0 of message 1 is [4, 4]
    fits = (
        "Indexing fails. A message of length 4 has its last token at place 3; you need one place "
        "for each message, hidden[torch.arange(batch), places]; and to divide (batch, emb) by "
        "lengths, make them a column, lengths[:, None]."
    )

    def rows(*values):
        return torch.tensor(values)[:, None].repeat(1, 2)

    mistakes = {
        "You read the padding: the last place of a row is a real token only in the longest "
        "message.": rows(3.0, 7.0, 11.0),
        "Off by one: a message of length n has its last token at place n - 1.": rows(
            3.0, 5.0, 11.0
        ),
        "You took the first token of each message; it has not looked at the others.": rows(
            0.0, 4.0, 8.0
        ),
        "hidden[:, lengths - 1] takes all these places from every message. Pair them: "
        "hidden[torch.arange(batch), lengths - 1].": hidden[:, lengths - 1],
        'You gave the mean for "last", too.': rows(1.5, 4.0, 9.0),
    }
    last = attempt(one_vector, hidden, lengths, "last", hint=fits)
    expect(last, rows(3.0, 4.0, 10.0), mistakes, what="the last real tokens")
    mistakes = {
        "The padding is in your mean: leave out the places from lengths on.": rows(1.5, 5.5, 9.5),
        "You left the padding out of the sum and counted it when dividing. Divide by lengths.": (
            rows(1.5, 1.0, 6.75)
        ),
        "You counted the padding in the sum, and then divided by lengths.": rows(1.5, 22.0, 38 / 3),
        "That is the sum. Divide it by lengths.": rows(6.0, 4.0, 27.0),
        "One token too few: the places below lengths are real, and lengths - 1 is one of them.": (
            rows(0.75, 0.0, 17 / 3)
        ),
        "One token too many: place lengths is padding already.": rows(1.5, 9.0, 38 / 3),
        'You gave the last token for "mean", too.': rows(3.0, 4.0, 10.0),
    }
    mean = attempt(one_vector, hidden, lengths, "mean", hint=fits)
    expect(mean, rows(1.5, 4.0, 9.0), mistakes, what="the means of the real tokens")
    vectors = one_vector(*(tensor.clone() for tensor in two_messages()), "last")
    by_itself = mini().hidden_states(torch.tensor([mini_tokenizer().encode(ALONE)]))[:, -1]
    assert same(vectors[1:], by_itself), "a message's vector changes with what stands beside it"
    return (
        "A message's vector is the same alone and beside a longer one (mini was asked), so its "
        "answer no longer depends on its neighbours."
    )


@exercise("5.2")
def check_scores(scores):
    labels = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    p = torch.tensor([0.9, 0.8, 0.5, 0.2, 0.7, 0.6, 0.4, 0.3, 0.1, 0.1])

    def found_at(threshold, labels=labels):
        found = attempt(
            *(scores, labels, p, threshold),
            hint="A division by zero: when nothing is caught, precision is 0 by agreement, and F1 "
            "is 0 when both of its parts are.",
            of=(ZeroDivisionError,),
        )
        assert found is not None, "Nothing came back: end with `return precision, recall, f1`."
        assert isinstance(found, tuple | list) and len(found) == 3, (
            "Three numbers have to come back: `return precision, recall, f1`."
        )
        return [float(value) for value in found]

    right = [3 / 5, 3 / 4, 2 / 3]  # 5 caught, 3 of them spam; 4 spam
    mistakes = {
        "Precision and recall are swapped. Precision divides by what was caught, recall by what "
        "there is.": [3 / 4, 3 / 5, 2 / 3],
        "A message at exactly the threshold counts as caught: p >= threshold.": [
            1 / 2,
            1 / 2,
            1 / 2,
        ],
        "F1 is no plain mean: 2 * precision * recall / (precision + recall), which stays near the "
        "smaller one.": [3 / 5, 3 / 4, 27 / 40],
        "F1 lacks the 2: as it is, a perfect filter would get a half.": [3 / 5, 3 / 4, 1 / 3],
        "That is the product of precision and recall.": [3 / 5, 3 / 4, 9 / 20],
        "Those are precision and recall of ham. Spam, label 1, is what the filter looks for.": [
            *(4 / 5, 4 / 6, 8 / 11)
        ],
        "Precision came out as the accuracy: it does not ask about ham that was left alone.": [
            *(7 / 10, 3 / 4, 2 * 0.7 * 0.75 / 1.45)
        ],
        "You caught what is BELOW the threshold.": [1 / 5, 1 / 4, 2 / 9],
        "Precision divides by all messages. Divide by those that were caught.": [
            *(3 / 10, 3 / 4, 2 * 0.3 * 0.75 / 1.05)
        ],
        "Recall divides by all messages. Divide by those that are spam.": [
            *(3 / 5, 3 / 10, 2 * 0.6 * 0.3 / 0.9)
        ],
    }
    expect(found_at(0.5), right, mistakes, what="precision, recall and F1")
    mistakes = {
        "You use 0.5 whatever the threshold is.": right,
        "Nothing is caught at 0.95. Then recall and F1 are 0, and precision is 0 by agreement; "
        "yours is no number (0 / 0) or another.": [float("nan")] * 3,
    }
    nothing = found_at(0.95)
    if any(value != value for value in nothing):
        raise AssertionError(list(mistakes)[1])
    expect(nothing, [0.0, 0.0, 0.0], mistakes, what="the three where nothing is caught")
    f1 = found_at(0.65)[2]
    return (
        "Moving the threshold from 0.5 to 0.65 costs one message that was spam and spares one that "
        f"was not: F1 goes from {right[2]:.2f} to {f1:.2f}. Where should it stand? 5.3 chooses."
    )


@exercise("5.3")
def check_choose(choose_threshold):
    labels = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    p = [0.25, 0.18, 0.25, 0.49, 0.82, 0.05, 0.24, 0.12, 0.13, 0.07, 0.29, 0.27, 0.27, 0.23]
    validation = (labels, torch.tensor(p).double())
    p = [0.57, 0.84, 0.75, 0.44, 0.71, 0.05, 0.13, 0.26, 0.41, 0.29, 0.08, 0.45, 0.54, 0.22]
    test = (labels, torch.tensor(p).double())
    found = attempt(
        *(choose_threshold, validation, test),
        hint="`labels, p = validation` takes a pair apart, and f1_at(labels, p, threshold) wants "
        "all three.",
        of=(TypeError, ValueError),
    )
    assert found is not None, "Nothing came back: end with `return threshold, f1`."
    assert isinstance(found, tuple | list) and len(found) == 2, (
        "Two numbers have to come back: `return threshold, f1`."
    )
    threshold, f1 = (float(value) for value in found)

    wanted = best(validation)
    mistakes = other_thresholds(validation, test)
    expect(threshold, wanted, mistakes, what="the threshold")
    mistakes = other_reports(validation, test)
    expect(f1, f1_of(*test, wanted), mistakes, what="the F1 to report")
    return (
        f"On validation your threshold reaches {f1_of(*validation, wanted):.2f}, on test "
        f"{f1:.2f}: the second number is the one that may be told."
    )


@exercise("5.4")
def check_loop(train_head):
    generator = torch.Generator().manual_seed(5)
    batches = [
        (torch.randn(n, 3, generator=generator), torch.randint(0, 2, (n,), generator=generator))
        for n in (4, 4, 2)
    ]
    torch.manual_seed(0)
    head = nn.Linear(3, 2)
    start = (head.weight.detach().clone(), head.bias.detach().clone())
    happened: list[str] = []
    head.weight.register_hook(lambda gradient: happened.append("backward"))

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            empty = all(p.grad is None or not p.grad.any() for p in head.parameters())
            happened.append("empty step" if empty else "step")
            return super().step(closure)

    losses = attempt(
        *(train_head, head, batches, Watched(head.parameters(), lr=0.5)),
        hint="Something does not fit. Each batch is a pair, `for features, labels in batches`; "
        "F.cross_entropy(scores, labels) wants the scores (batch, 2) first; backward() belongs to "
        "the loss, and needs a loss that is not .item() yet.",
    )
    assert "backward" in happened, (
        "No gradient was ever worked out: call loss.backward() for each batch."
    )
    assert "step" in happened or "empty step" in happened, (
        "The gradients are there, and nobody walks down: call optimizer.step() for each batch."
    )
    assert "empty step" not in happened or happened[0] == "backward", (
        "optimizer.step() came before loss.backward(): it had no gradient yet. Loss, backward, "
        "step."
    )
    assert "empty step" not in happened, (
        "The gradients were emptied between backward() and step(), so the step had none. "
        "zero_grad belongs before backward()."
    )
    assert happened.count("step") != 1, (
        "Only one step was made. Each batch gets its own; is something of the loop outside of it, "
        "or `return` inside?"
    )
    assert happened.count("step") == happened.count("backward") == 3, (
        f"3 batches, {happened.count('backward')} times backward and {happened.count('step')} "
        "steps; each batch gets one of each."
    )
    weight, wanted = by_hand(*start, batches)
    mistakes = {} if same(head.weight, weight) else other_loops(start, batches)
    expect(head.weight, weight, mistakes, what="the head's weight after three steps")
    assert losses is not None, "Nothing came back: collect the losses in a list and return it."
    assert isinstance(losses, list | tuple), "Return a list: one loss a batch."
    assert not any(torch.is_tensor(loss) for loss in losses), (
        "Your list holds tensors, and each holds on to everything that it was computed from. Keep "
        "the number alone: loss.item()."
    )
    mistakes = {"Each loss is appended before its step, from the scores of its own batch.": []}
    expect(list(losses), wanted, mistakes, what="the losses")
    return (
        "Three steps, and the weights are to the last digit what pencil and paper give. The next "
        "cell gives your loop real messages."
    )
