"""What wrong answers of exercises 5 give, each under the hint that names the mistake."""

import torch
import torch.nn.functional as F

Part = tuple[list[int], torch.Tensor]  # labels, and the probabilities of spam


def f1_of(labels: list[int], p: torch.Tensor, threshold: float) -> float:
    """F1 in one formula: spam that was caught, twice, among it and all mistakes."""
    caught, spam = p >= threshold, torch.tensor(labels).bool()
    right = 2 * (caught & spam).sum().item()
    return right / max(1, right + (caught ^ spam).sum().item())


def accuracy_of(labels: list[int], p: torch.Tensor, threshold: float) -> float:
    """The share of messages that were put where they belong."""
    return ((p >= threshold) == torch.tensor(labels).bool()).double().mean().item()


def best(part: Part, by=f1_of) -> float:
    """Of the probabilities the one that does best as a threshold; of equals, the lowest."""
    return max(part[1].unique().tolist(), key=lambda at: by(*part, at))


def other_thresholds(validation: Part, test: Part) -> dict[str, float]:
    """Thresholds that were chosen otherwise than by F1 on validation."""
    rising = validation[1].unique().tolist()
    return {
        "You chose on the test messages. They are then no test any more: choose on validation, and "
        "only measure on test.": best(test),
        "You chose on both parts together. The test messages may have no say.": best(
            _both(validation, test)
        ),
        "That is 0.5, whatever the messages say. Try each of the probabilities that validation "
        "has.": 0.5,
        "That is the lowest threshold: everything is caught. Take the one with the best F1.": (
            rising[0]
        ),
        "That is the highest threshold: hardly anything is caught. Take the one with the best "
        "F1.": rising[-1],
        "That is a place in the list of thresholds, not a threshold.": float(
            rising.index(best(validation))
        ),
        "That is the best F1 itself; return the threshold that gives it.": f1_of(
            *validation, best(validation)
        ),
        "That threshold has the best accuracy. With so much more ham than spam, F1 was "
        "asked.": best(validation, accuracy_of),
        "Two thresholds are equally good on validation: of equals, the lowest.": max(
            reversed(rising), key=lambda at: f1_of(*validation, at)
        ),
    }


def other_reports(validation: Part, test: Part) -> dict[str, float]:
    """What may not be told as the F1 of the threshold chosen on validation."""
    chosen = best(validation)
    return {
        "That is the F1 of the validation messages, for which the threshold was chosen: it "
        "flatters. Report that of the test messages.": f1_of(*validation, chosen),
        "That is the F1 on test at 0.5. Measure at the threshold that you have chosen.": f1_of(
            *test, 0.5
        ),
        "That is the best F1 that any threshold reaches on test. Nobody could have known it: "
        "measure at the one chosen on validation.": f1_of(*test, best(test)),
        "That is the F1 of both parts together. Report that of the test messages.": f1_of(
            *_both(validation, test), chosen
        ),
    }


def _both(one: Part, other: Part) -> Part:
    return one[0] + other[0], torch.cat([one[1], other[1]])


def by_hand(weight, bias, batches, forget=True, twice=False, summed=False):
    """The gradient of cross-entropy written out: probabilities minus one at the right label.

    Returns the weight (2, emb) after a step of length 0.5 for each batch, and the losses.
    """
    losses, g_weight, g_bias = [], 0.0, 0.0
    for x, labels in batches:
        p = (x @ weight.T + bias).softmax(-1)  # (batch, 2)
        answers = p.softmax(-1) if twice else p
        losses.append(-answers.gather(1, labels[:, None]).log().mean().item())
        g = answers - F.one_hot(labels, 2)
        if twice:  # through the first softmax: diag(p) - p p^T
            g = p * (g - (g * p).sum(-1, keepdim=True))
        g = g if summed else g / len(x)
        g_weight, g_bias = (
            g.T @ x + (0 if forget else g_weight),
            g.sum(0) + (0 if forget else g_bias),
        )
        weight, bias = weight - 0.5 * g_weight, bias - 0.5 * g_bias
    return weight, losses


def other_loops(start, batches) -> dict[str, torch.Tensor]:
    """Where wrong loops end, under the hint that names the mistake."""
    turned = [(x, 1 - labels) for x, labels in batches]
    return {
        "Gradients add up: without optimizer.zero_grad() each step walks along those of all "
        "batches before it, too.": by_hand(*start, batches, forget=False)[0],
        "The softmax was taken twice: F.cross_entropy takes scores, and makes probabilities of "
        "them itself.": by_hand(*start, batches, twice=True)[0],
        "The losses of a batch were added up; take their mean, as F.cross_entropy does unless told "
        "otherwise.": by_hand(*start, batches, summed=True)[0],
        "The head learned to be wrong: minus the loss, or the labels turned round?": by_hand(
            *start, turned
        )[0],
        "All steps were made on the first batch.": by_hand(*start, [batches[0]] * 3)[0],
    }
