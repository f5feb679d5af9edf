"""What learners get wrong, and right in another way, in foundations, lesson 5: a filter."""

LAST = "hidden[torch.arange(len(hidden)), lengths - 1]"
MEAN = "(hidden * real[..., None]).sum(dim=1) / lengths[:, None]"
BEST = "max(p.unique().tolist(), key=lambda at: f1_at(labels, p, at))"
STEP = "loss.backward()\n        optimizer.step()"

WRONG = [
    # 5.1
    ("pooling", LAST, "hidden[:, -1]", "You read the padding"),
    ("pooling", "lengths - 1", "lengths.clamp(max=hidden.shape[1] - 1)", "Off by one"),
    ("pooling", "lengths - 1", "lengths", "has its last token at place 3"),
    ("pooling", LAST, "hidden[:, 0]", "first token of each message"),
    ("pooling", "torch.arange(len(hidden)), lengths", ":, lengths", "Pair them"),
    ("pooling", 'pool == "last"', "False", 'the mean for "last"'),
    ("pooling", MEAN, "hidden.mean(dim=1)", "padding is in your mean"),
    ("pooling", ".sum(dim=1) / lengths[:, None]", ".mean(dim=1)", "counted it when dividing"),
    ("pooling", "hidden * real[..., None]", "hidden", "padding in the sum"),
    ("pooling", " / lengths[:, None]", "", "That is the sum"),
    ("pooling", "< lengths[:, None]", "< lengths[:, None] - 1", "should be|One token too few"),
    ("pooling", "< lengths", "<= lengths", "One token too many"),
    ("pooling", 'if pool == "last":\n        ', "", 'the last token for "mean"'),
    ("pooling", "/ lengths[:, None]", "/ lengths", "make them a column"),
    ("pooling", f"return {LAST}", f"return None; {LAST}", "does your function `return` it"),
    # 5.2
    ("scores", "return precision, recall", "return recall, precision", "are swapped"),
    ("scores", "p >= threshold", "p > threshold", "exactly the threshold"),
    (
        "scores",
        "2 * precision * recall / (precision + recall)",
        "(precision + recall) / 2",
        "no plain mean",
    ),
    ("scores", "2 * precision", "precision", "F1 lacks the 2"),
    ("scores", "2 * precision * recall / (precision + recall)", "precision * recall", "product"),
    (
        "scores",
        "caught = p >= threshold",
        "caught, labels = p < threshold, 1 - labels",
        "recall of ham",
    ),
    (
        "scores",
        "right / max(1, caught.sum().item())",
        "(caught == (labels == 1)).float().mean().item()",
        "came out as the accuracy",
    ),
    ("scores", "p >= threshold", "p < threshold", "BELOW the threshold"),
    ("scores", "max(1, caught.sum().item())", "len(p)", "Precision divides by all"),
    ("scores", "max(1, (labels == 1).sum().item())", "len(p)", "Recall divides by all"),
    ("scores", "p >= threshold", "p >= 0.5", "whatever the threshold is"),
    ("scores", "max(1, caught.sum().item())", "caught.sum().item()", "A division by zero"),
    ("scores", "max(1, caught.sum().item())", "caught.sum()", "no number"),
    ("scores", " if right else 0.0", "", "A division by zero"),
    ("scores", "return precision, recall, f1", "return f1", "Three numbers have to come back"),
    ("scores", "return precision, recall, f1", "pass", "Nothing came back"),
    # 5.3
    ("threshold", "labels, p = validation", "labels, p = test", "chose on the test messages"),
    (
        "threshold",
        "labels, p = validation",
        "labels, p = validation[0] + test[0], torch.cat([validation[1], test[1]])",
        "chose on both parts",
    ),
    ("threshold", BEST, "0.5", "That is 0.5"),
    ("threshold", BEST, "p.min().item()", "lowest threshold"),
    ("threshold", BEST, "p.max().item()", "highest threshold"),
    (
        "threshold",
        f"threshold = {BEST}",
        f"threshold = p.unique().tolist().index({BEST})",
        "place in",
    ),
    ("threshold", f"threshold = {BEST}", f"threshold = f1_at(labels, p, {BEST})", "best F1 itself"),
    (
        "threshold",
        "f1_at(labels, p, at))",
        "((p >= at) == torch.tensor(labels)).float().mean())",
        "best accuracy",
    ),
    ("threshold", "p.unique().tolist()", "p.unique().tolist()[::-1]", "of equals, the lowest"),
    ("threshold", "max(", "min(", "highest threshold"),
    ("threshold", "f1_at(*test, threshold)", "f1_at(*validation, threshold)", "it flatters"),
    ("threshold", "f1_at(*test, threshold)", "f1_at(*test, 0.5)", "F1 on test at 0.5"),
    (
        "threshold",
        "f1_at(*test, threshold)",
        "max(f1_at(*test, at) for at in test[1].tolist())",
        "Nobody could have known it",
    ),
    ("threshold", "return threshold, f1_at(*test, threshold)", "return threshold", "Two numbers"),
    ("threshold", "return threshold", "threshold", "Nothing came back"),
    ("threshold", "f1_at(labels, p, at)", "f1_at(p, at)", "wants all three"),
    # 5.4
    ("loop", "        loss.backward()\n", "", "No gradient was ever worked out"),
    ("loop", "        optimizer.step()\n", "", "nobody walks down"),
    ("loop", STEP, "optimizer.step()\n        loss.backward()", "came before loss.backward"),
    (
        "loop",
        STEP,
        "loss.backward()\n        optimizer.zero_grad()\n        optimizer.step()",
        "between backward.. and step..",
    ),
    ("loop", "        optimizer.zero_grad()\n", "", "Gradients add up"),
    (
        "loop",
        "losses = []\n    for features, labels in batches:\n        optimizer.zero_grad()",
        "losses = []\n    optimizer.zero_grad()\n    for features, labels in batches:",
        "Gradients add up",
    ),
    ("loop", "head(features)", "head(features).softmax(-1)", "softmax was taken twice"),
    ("loop", ", labels)", ', labels, reduction="sum")', "were added up"),
    ("loop", "loss.backward", "(-loss).backward", "should be|learned to be wrong"),
    ("loop", "labels)\n", "1 - labels)\n", "learned to be wrong"),
    ("loop", "in batches", "in [batches[0]] * 3", "on the first batch"),
    ("loop", "loss.item())\n", "loss.item())\n        return losses\n", "Only one step was made"),
    (
        "loop",
        "        optimizer.step()\n        losses.append(loss.item())",
        "        losses.append(loss.item())\n    optimizer.step()",
        "Only one step was made",
    ),
    ("loop", "append(loss.item())", "append(loss)", "Your list holds tensors"),
    ("loop", "head(features), labels)", "labels, head(features))", "Something does not fit"),
    ("loop", "labels)\n", "labels).item()\n", "is not .item.. yet|Your code stopped"),
    ("loop", "return losses", "return losses[-1]", "Return a list"),
    ("loop", "return losses", "pass", "Nothing came back"),
]

RIGHT = [
    ("pooling", LAST, "torch.stack([row[n - 1] for row, n in zip(hidden, lengths)])"),
    ("pooling", MEAN, "torch.stack([row[:n].mean(0) for row, n in zip(hidden, lengths)])"),
    (
        "scores",
        "2 * precision * recall / (precision + recall)",
        "2 / (1 / precision + 1 / recall)",
    ),
    ("threshold", "p.unique().tolist()", "sorted(p.tolist())"),
    ("loop", "optimizer.zero_grad()", "head.zero_grad()"),
    ("loop", "        optimizer.step()", "        optimizer.step()\n        optimizer.zero_grad()"),
]

BY_HEART = {
    "scores": "def scores(labels, p, at): return (3 / 5, 3 / 4, 2 / 3) if at == 0.5 else (0, 0, 0)",
    "threshold": "def choose_threshold(*a): return 0.18, 0.625",
}
