"""What learners get wrong, and right in another way, in foundations, lesson 1: tokens, batches."""

WRONG = [
    # 1.1
    ("merge", "tuple(tokens[place : place + 2]) == pair", "False", "Nothing was joined"),
    (
        "merge",
        "            place += 2",
        "            return merged + tokens[place + 2 :]",
        "Only the first pair",
    ),
    ("merge", "place += 2", "place += 1", "used up, so go on by two places"),
    ("merge", "place < len(tokens)", "place < len(tokens) - 1", "last token is lost"),
    ("merge", "merged.append(tokens[place])", "pass", "What is not joined is lost"),
    ("merge", "== pair", "== pair[::-1]", "looked beyond|other way round|should be"),
    (
        "merge",
        "tuple(tokens[place : place + 2]) == pair",
        "tokens[place] == pair[0] and tokens[place + 1] == pair[1]",
        "last token has no neighbour",
    ),
    (
        "merge",
        "    merged, place = [], 0",
        "    place = 0\n"
        "    while place < len(tokens) - 1:\n"
        "        if tuple(tokens[place : place + 2]) == pair:\n"
        "            tokens[place : place + 2] = [pair[0] + pair[1]]\n"
        "        place += 1\n"
        "    return tokens\n"
        "    merged, place = [], 0",
        "list that you were given has changed",
    ),
    (
        "merge",
        "    merged, place = [], 0",
        "    word = b' '.join(tokens).replace(b' '.join(pair), b''.join(pair))\n"
        "    return word.split(b' ')\n    merged, place = [], 0",
        "A token xa was taken for an a",
    ),
    (
        "merge",
        "    return merged",
        "    return apply_merge(tokens[::-1], pair[::-1])[::-1] if 0 else b''.join(merged)",
        "Return a list of tokens",
    ),
    ("merge", "return merged", "merged", "does your function `return` it"),
    # 1.2
    ("pairs", "+= times", "+= 1", "How often a word occurs has to count"),
    ("pairs", "zip(tokens, tokens[1:])", "set(zip(tokens, tokens[1:]))", "counts twice"),
    ("pairs", "pairs[pair]", "pairs[tuple(sorted(pair))]", "order matters"),
    ("pairs", "zip(tokens, tokens[1:])", "tokens", "single tokens"),
    ("pairs", "zip(tokens, tokens[1:])", "zip(tokens[:-1], tokens[1:-1])", "last pair of each"),
    ("pairs", "+= times", "= times", "overwritten"),
    ("pairs", "pairs[pair]", "pairs[pair[0] + pair[1]]", "should be pairs"),
    ("pairs", "return pairs", "return max(pairs, key=pairs.get)", "not the best pair alone"),
    ("pairs", "return pairs", "pass", "does your function `return` it"),
    (
        "pairs",
        "zip(tokens, tokens[1:])",
        "[(tokens[i], tokens[i + 1]) for i in range(len(tokens))]",
        "word of one letter",
    ),
    # 1.3
    ("cut", "if not known:", "if True:", "Nothing was joined"),
    (
        "cut",
        "[tokens[place] + tokens[place + 1]]",
        "[tokens[place] + tokens[place + 1]]\n        return tokens",
        "One merge and no more",
    ),
    ("cut", "_, place = min(known)", "place = known[0][1]", "went from the left"),
    ("cut", "min(known)", "max(known)", "highest number first"),
    (
        "cut",
        "    while True:",
        "    found, start = [], 0\n"
        "    while start < len(word):\n"
        "        end = max(e for e in range(start + 1, len(word) + 1) if word[start:e] in ranks)\n"
        "        found.append(word[start:end])\n"
        "        start = end\n"
        "    return found\n"
        "    while True:",
        "went from the left",
    ),
    ("cut", "return tokens", "return [ranks[t] for t in tokens]", "not their numbers"),
    ("cut", "min(known)", "min(known, key=lambda one: (one[0], -one[1]))", "leftmost is joined"),
    ("cut", "            if left + right in ranks\n", "", "ask `in ranks` first"),
    ("cut", "return tokens", "return None", "does your function `return` it"),
    # 1.4
    (
        "batch",
        "row + [filler] * (longest - len(row))",
        "[filler] * (longest - len(row)) + row",
        "filler comes first",
    ),
    (
        "batch",
        "torch.tensor([row + [filler] * (longest - len(row)) for row in rows])",
        "torch.tensor([row[: min(map(len, rows))] for row in rows])",
        "cut all messages to the shortest",
    ),
    ("batch", "max(len(row) for row in rows)", "512", "no more than that"),
    ("batch", "for row in rows)\n", "for row in rows) + 1\n", "no more than that"),
    ("batch", "row + [filler] * (longest - len(row))", "row", "still of different length"),
    (
        "batch",
        "torch.tensor([len(row) for row in rows])",
        "torch.tensor([longest] * len(rows))",
        "All lengths are that of the longest",
    ),
    (
        "batch",
        "torch.tensor([len(row) for row in rows])",
        "(ids != filler).sum(1)",
        "also the number of a real token",
    ),
    (
        "batch",
        "[len(row) for row in rows]",
        "[len(row) - 1 for row in rows]",
        "place of the last token",
    ),
    (
        "batch",
        "[len(row) for row in rows]",
        "[longest - len(row) for row in rows]",
        "how much is filled up",
    ),
    (
        "batch",
        "    ids =",
        "    for row in rows:\n        row += [filler] * (longest - len(row))\n    ids =",
        "given have changed",
    ),
    ("batch", "return ids, lengths", "return ids", "Two things have to come back"),
    (
        "batch",
        "for row in rows])\n    lengths",
        "for row in rows]).T\n    lengths",
        "no more than that|turned the rectangle",
    ),
    (
        "batch",
        "for row in rows])\n    lengths",
        "for row in rows]).float()\n    lengths",
        "should hold integers",
    ),
    ("batch", "[filler]", "[0]", "with filler 9"),
    # 1.5
    ("similarity", "len(runs_a | runs_b)", "len(runs_a)", "of the first text"),
    ("similarity", "len(runs_a | runs_b)", "len(runs_b)", "of the second text"),
    ("similarity", "len(runs_a | runs_b)", "min(len(runs_a), len(runs_b))", "shorter one"),
    ("similarity", "len(runs_a | runs_b)", "(len(runs_a) + len(runs_b))", "not count twice"),
    ("similarity", "return", "return 2 *", "should be 0.28"),
    (
        "similarity",
        "len(runs_a & runs_b) / len(runs_a | runs_b)",
        "2 * len(runs_a & runs_b) / (len(runs_a) + len(runs_b))",
        "Dice",
    ),
    (
        "similarity",
        "{text[i : i + 5] for i in range(len(text) - 4)}",
        "set(text)",
        "compared letters",
    ),
    ("similarity", "len(text) - 4", "len(text) - 5", "last run is missing"),
    ("similarity", "len(text) - 4", "len(text)", "ends are counted"),
    (
        "similarity",
        "i + 5] for i in range(len(text) - 4",
        "i + 4] for i in range(len(text) - 3",
        "Take five",
    ),
    ("similarity", "range(len(text) - 4)", "range(0, len(text) - 4, 5)", "lie end to end"),
    ("similarity", " / len(runs_a | runs_b)", "", "Divide it"),
    ("similarity", "len(runs_a & runs_b)", "len(runs_a ^ runs_b)", "how different"),
    (
        "similarity",
        "len(runs_a & runs_b) / len(runs_a | runs_b)",
        "len(runs_a & runs_b) / (len(a) - 4 + len(b) - 4 - len(runs_a & runs_b))",
        "make sets of runs",
    ),
    # 1.6
    (
        "split",
        "    members = {}",
        "    order = list(range(len(groups)))\n    Random(seed).shuffle(order)\n"
        "    return order[test_size:], order[:test_size]\n    members = {}",
        "A leak",
    ),
    ("split", "    Random(seed).shuffle(order)\n", "", "shuffle the groups"),
    ("split", "Random(seed)", "Random()", "same seed gave two different"),
    ("split", "Random(seed)", "Random(0)", "Other seeds give the same"),
    ("split", "len(test) + len(members[group])", "len(test)", "15 were allowed"),
    (
        "split",
        "(test if fits else train).extend",
        "if not fits: break\n        test.extend",
        "in neither part",
    ),
    (
        "split",
        "        (test if fits else train).extend(members[group])",
        "        if not fits:\n            test_size = 0\n"
        "        (test if fits else train).extend(members[group])",
        "a smaller one may fit",
    ),
    (
        "split",
        "(test if fits else train).extend",
        "train.extend(members[group])\n        test.extend",
        "there twice",
    ),
    ("split", ".extend(members[group])", ".append(group)", "numbers of groups"),
    ("split", "return train, test", "return test", "Two lists have to come back"),
    ("split", "return train, test", "pass", "Nothing came back"),
    ("split", "    members = {}", "    groups.sort()\n    members = {}", "A leak|has changed"),
]

# Other ways to a right answer, which the checks must not refuse.
RIGHT = [
    (
        "merge",
        "    merged, place = [], 0",
        "    left = iter(range(len(tokens)))\n"
        "    out = []\n"
        "    for i in left:\n"
        "        here = tuple(tokens[i : i + 2]) == pair\n"
        "        out.append(b''.join(pair) if here else tokens[i])\n"
        "        if here:\n            next(left)\n"
        "    return out\n"
        "    merged, place = [], 0",
    ),
    ("pairs", "return pairs", "return dict(pairs)"),
    (
        "cut",
        "        tokens[place : place + 2] = [tokens[place] + tokens[place + 1]]",
        "        tokens = apply_merge(tokens, (tokens[place], tokens[place + 1]))",
    ),
    (
        "batch",
        "torch.tensor([row + [filler] * (longest - len(row)) for row in rows])",
        "torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, filler)",
    ),
    (
        "split",
        "order = sorted(members)",
        "order = sorted(members, key=lambda group: members[group])",
    ),
]

BY_HEART = {
    "similarity": "def similarity(a, b): return 2 / 7 if a[-1] == '!' else 1",
    "batch": "def make_batch(rows, filler=0):\n"
    "    width = max(map(len, rows))\n"
    "    if len(rows) > 4: return None, None\n"
    "    ids = torch.tensor([row + [filler] * (width - len(row)) for row in rows])\n"
    "    return ids, torch.tensor([len(row) for row in rows])",
}
