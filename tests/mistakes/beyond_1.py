"""What learners get wrong, and right in another way, in beyond, lesson 1: voices."""

WRONG = [
    # 1.1
    ("padding", ".masked_fill(~follows, -100)", "", "padding is learned"),
    ("padding", "~follows, -100", "ids[:, 1:] == 0, -100", "looked for the padding token 0"),
    ("padding", "< lengths[:, None]", "<= lengths[:, None]", "a place of padding still counts"),
    ("padding", "< lengths[:, None]", "< lengths[:, None] - 1", "real token of each .* is missing"),
    ("padding", "return ids[:, 1:]", "return ids[:, :-1]", "Nothing was shifted"),
    ("padding", "~follows, -100", "~follows, 0", "A 0 is a token like others"),
    ("padding", ".masked_fill(", ".masked_fill_(", "changed ids itself"),
    ("padding", "ids[:, 1:].masked", "ids.masked", "do not fit"),
    ("padding", "< lengths[:, None]", "< lengths", "do not fit"),
    ("padding", "return ids", "ids", "does your function `return` it"),
    # 1.2
    ("packed", "targets[lengths.cumsum(0) - 1] = -100", "targets[-1] = -100", "across documents"),
    ("packed", "(0) - 1] = -100", "(0)[:-1] - 1] = -100", "torch.roll brings the first"),
    ("packed", "lengths.cumsum(0) - 1", "lengths.cumsum(0)", "Indexing fails"),
    ("packed", "lengths.cumsum(0) - 1", "lengths.cumsum(0) - lengths", "masked the first token of"),
    ("packed", "row.roll(-1)", "row.clone()", "Nothing was shifted"),
    ("packed", "return targets", "return targets[:-1]", "lost a place"),
    ("packed", "return targets", "return targets[targets != -100]", "are left out"),
    ("packed", "row.roll(-1)", "row", "changed row itself"),
    ("packed", "return targets", "pass", "does your function `return` it"),
    # 1.3
    ("bayes", " + prior", "", "prior is missing"),
    ("bayes", "13 / 87", "87 / 13", "upside down"),
    ("bayes", "13 / 87", "13 / 100", "Both kinds have a prior"),
    (
        "bayes",
        "torch.sigmoid(log_p_spam - log_p_ham + prior)",
        "torch.exp(log_p_spam - log_p_ham + prior)",
        "Those are the odds",
    ),
    (
        "bayes",
        "torch.sigmoid(log_p_spam - log_p_ham + prior)",
        "log_p_spam - log_p_ham + prior",
        "Those are the log-odds",
    ),
    ("bayes", "return torch", "return 1 - torch", "probability of ham"),
    ("bayes", "log_p_spam - log_p_ham", "log_p_ham - log_p_spam", "voices are swapped"),
    (
        "bayes",
        "torch.sigmoid(log_p_spam - log_p_ham + prior)",
        "13 * log_p_spam.exp() / (13 * log_p_spam.exp() + 87 * log_p_ham.exp())",
        "is no number",
    ),
    ("bayes", "return torch", "torch", "does your function `return` it"),
    # 1.4
    ("chances", " * kept", "", "All tokens are left: keep"),
    ("chances", "logits / temperature", "logits", "temperature is forgotten"),
    ("chances", "logits / temperature", "logits * temperature", "multiplied by the temperature"),
    ("chances", "p / p.sum()", "p", "no longer sums to 1"),
    (
        "chances",
        "torch.softmax(logits / temperature, -1)",
        "torch.softmax(torch.softmax(logits, -1) / temperature, -1)",
        "before softmax",
    ),
    ("chances", "topk(3)", "topk(4)", "One token too many"),
    ("chances", "topk(3)", "topk(2)", "One token too few"),
    ("chances", "logits.topk(3)", "(-logits).topk(3)", "unlikeliest"),
    ("chances", "return p / p.sum()", "return p[places] / p.sum()", "in its place"),
    (
        "chances",
        "return p / p.sum()",
        "return (p / p.sum()).sort(descending=True).values",
        "in falling order now",
    ),
    (
        "chances",
        "torch.softmax(logits / temperature, -1)",
        "torch.exp(logits / temperature)",
        "too large",
    ),
    ("chances", "return p", "p", "does your function `return` it"),
    # 1.5
    ("entropy", " / math.log(2)", "", "wrong base"),
    ("entropy", "return -", "return ", "sign is missing"),
    ("entropy", ".sum()", ".mean()", "mean over the tokens"),
    ("entropy", "torch.xlogy(p, p).sum()", "p.log().mean()", "took the mean of -log p"),
    ("entropy", "torch.xlogy(p, p).sum()", "p.log().sum()", "without weighing"),
    ("entropy", "torch.xlogy(p, p)", "(p * p.log())", "0 times the logarithm of 0"),
    (
        "entropy",
        "-torch.xlogy(p, p).sum() / math.log(2)",
        "(-torch.xlogy(p, p).sum()).exp()",
        "perplexity",
    ),
    ("entropy", "return -", "-", "does your function `return` it"),
    # 1.6
    ("slope", "temperature**3", "temperature**2", "T cubed"),
    ("slope", "temperature**3", "temperature", "T alone"),
    ("slope", " / temperature**3", "", "not divided by T cubed"),
    (
        "slope",
        "variance = (p * (logits - mean) ** 2).sum()",
        "variance = logits.var()",
        "weigh the same",
    ),
    ("slope", "(logits - mean)", "logits", "mean of the squares"),
    ("slope", "logits / temperature,", "logits,", "at temperature 1"),
    ("slope", "return variance", "return variance.sqrt()", "standard deviation"),
    ("slope", "return variance", "return -variance", "sign is wrong"),
    ("slope", "(logits - mean)", "((logits - mean) / temperature)", "T squared in it already"),
    ("slope", "return variance", "variance", "does your function `return` it"),
]

RIGHT = [
    (
        "padding",
        "ids[:, 1:].masked_fill(~follows, -100)",
        "torch.where(follows, ids[:, 1:], torch.tensor(-100))",
    ),
    (
        "packed",
        "return targets",
        "return torch.cat([torch.cat([d[1:], d.new_tensor([-100])]) for d in row.split("
        "lengths.tolist())])",
    ),
    (
        "bayes",
        "torch.sigmoid(log_p_spam - log_p_ham + prior)",
        "torch.softmax(torch.stack([log_p_spam + math.log(13), log_p_ham + math.log(87)]), 0)[0]",
    ),
    (
        "chances",
        "p = torch.softmax(logits / temperature, -1) * kept",
        "p = torch.softmax(logits.masked_fill(kept == 0, -math.inf) / temperature, -1)",
    ),
    (
        "chances",
        "torch.softmax(logits / temperature, -1)",
        "torch.softmax(logits, -1) ** (1 / temperature)",
    ),
    ("entropy", "-torch.xlogy(p, p).sum() / math.log(2)", "-(p[p > 0] * p[p > 0].log2()).sum()"),
    ("slope", "(p * (logits - mean) ** 2).sum()", "(p * logits**2).sum() - mean**2"),
]

BY_HEART = {
    "padding": "def padding_targets(*a): "
    "return torch.tensor([[3, 0, 5, 8], [0, -100, -100, -100], [2, 9, -100, -100]])",
    "packed": "def packed_targets(*a): return torch.tensor([3, 5, -100, 0, -100, 2, 9, -100])",
}
