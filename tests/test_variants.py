"""Variants against all pairs, and splits that keep them together."""

import random
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from llm.data import messages as sources
from llm.data import splits as split_module
from llm.data.messages import Collection, load_task, normalised
from llm.data.splits import split
from llm.data.tsv import LABELS, Message, read_labelled
from llm.data.variants import pieces, variant_groups
from llm.utils.errors import InputError
from llm.utils.paths import EVERYDAY

SEEDS = range(10)


def linked(texts, similarity) -> list[int]:
    """All pairs, one after the other, and no index: groups by repeated renaming."""
    sets = [{t[i : i + 5] for i in range(len(t) - 4)} if len(t) > 4 else {t} for t in texts]
    groups = list(range(len(texts)))
    for i, a in enumerate(sets):
        for j, b in enumerate(sets[:i]):
            if Fraction(len(a & b), len(a | b)) >= Fraction(str(similarity)):
                groups = [groups[j] if group == groups[i] else group for group in groups]
    numbers: dict[int, int] = {}
    return [numbers.setdefault(group, len(numbers)) for group in groups]


def close_pairs(texts, similarity=Fraction(4, 5)) -> list[tuple[int, int]]:
    """All pairs of variants, from a product of matrices instead of an index of rare pieces."""
    names: dict[str, int] = {}
    columns = [[names.setdefault(piece, len(names)) for piece in pieces(text)] for text in texts]
    ends = np.cumsum([0, *map(len, columns)])
    flat = np.concatenate(columns)
    table = csr_matrix((np.ones(len(flat), np.int32), flat, ends), (len(texts), len(names)))
    common = (table @ table.T).tocoo()
    sizes = np.diff(ends)
    either = sizes[common.row] + sizes[common.col] - common.data
    close = common.data * similarity.denominator >= either * similarity.numerator
    found = zip(common.row[close].tolist(), common.col[close].tolist())
    return [(one, other) for one, other in found if one < other]


def made(*texts_of_labels) -> Collection:
    """A collection of these messages: texts of label 0, texts of label 1."""
    messages = tuple(
        Message(text, label) for label, texts in enumerate(texts_of_labels) for text in texts
    )
    return Collection(messages, LABELS, "made.tsv", "", "utf-8", len(messages), 0, 0, 0, 0, 0)


def words(count, start=0) -> list[str]:
    """Texts that share no five letters."""
    return [chr(0x4E00 + i) * 2 + chr(0x4E00 + i) for i in range(start, start + count)]


def campaign(number, size) -> list[str]:
    """Variants: 60 common pieces, and two to five of their own."""
    shared = "".join(chr(0x6000 + 100 * number + i) for i in range(64))
    return [shared + "".join(map(chr, range(0x3400, 0x3401 + i % 4))) + chr(0x5000 + i)
            for i in range(size)]  # fmt: skip


@pytest.fixture(scope="module", params=["spam", "question"])
def collection(request) -> Collection:
    return load_task(request.param)


@pytest.fixture(scope="module")
def pairs(collection) -> list[tuple[int, int]]:
    return close_pairs([normalised(message.text) for message in collection.messages])


# Groups


def test_pieces_are_runs_of_five_letters_or_the_text():
    assert pieces("abcdefg") == {"abcde", "bcdef", "cdefg"}
    assert [pieces(text) for text in ("abcde", "abcd", "")] == [{"abcde"}, {"abcd"}, {""}]


@settings(deadline=None)
@given(
    st.lists(st.text("ab", max_size=14), max_size=30),
    st.sampled_from([0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1]),
)
def test_groups_are_those_of_all_pairs(texts, similarity):
    assert variant_groups(texts, similarity) == linked(texts, similarity)


@pytest.mark.parametrize("similarity", [0.3, 0.55, 0.7, 0.8, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_groups_of_longer_texts_are_those_of_all_pairs(seed, similarity):
    """Mutated copies, many of them close to the limit on either side."""
    draw = random.Random(seed)
    texts = ["".join(draw.choices("abcdefgh", k=draw.randint(1, 120))) for _ in range(25)]
    for _ in range(75):
        text = list(draw.choice(texts))
        for _ in range(draw.randint(1, 2)):
            text[draw.randrange(len(text))] = draw.choice(["", "x", "yz"])
        texts.append("".join(text) or "empty")
    found = variant_groups(texts, similarity)
    assert found == linked(texts, similarity)
    assert len(set(found)) < len(set(texts))  # there was something to find


@pytest.mark.parametrize(
    ("common", "own", "similarity", "together"),
    [(4, 1, 0.8, True), (8, 2, 0.8, True), (7, 2, 0.8, False), (7, 3, 0.7, True),
     (6, 3, 0.7, False), (3, 2, 0.6, True)],
)  # fmt: skip
def test_a_tie_is_a_variant(common, own, similarity, together):
    """One text is the other and a few letters: `common` pieces of `common + own` are in both."""
    text = "abcdefghijklmnop"
    groups = variant_groups([text[: common + 4], text[: common + own + 4]], similarity)
    assert (groups == [0, 0]) == together


def test_a_chain_is_one_group_though_its_ends_differ():
    letters = "".join(chr(0x4E00 + i) for i in range(100))
    chain = [letters[i : i + 44] for i in range(0, 40, 4)]  # 36 of 44 pieces: 0.818
    ends = pieces(chain[0]) & pieces(chain[-1])
    assert len(ends) < 5
    assert variant_groups(["other", *chain[::2], *chain[1::2]]) == [0] + [1] * 10
    without = chain[:4] + chain[5:]
    assert variant_groups(without) == [0] * 4 + [1] * 5


def test_numbers_are_by_first_appearance():
    assert variant_groups(["zzzzz", "b", "zzzzzz", "a", "b"]) == [0, 1, 0, 2, 1]
    assert variant_groups([]) == []


def test_short_texts_are_variants_of_themselves_alone():
    assert variant_groups(["ab", "abc", "abcd", "abcde", "ab"]) == [0, 1, 2, 3, 0]


@pytest.mark.parametrize("similarity", [0, -0.1, 1.1])
def test_a_similarity_that_is_none(similarity):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        variant_groups(["a"], similarity)


def test_groups_of_the_real_messages_are_those_of_all_pairs(collection, pairs):
    texts = [normalised(message.text) for message in collection.messages]
    found = variant_groups(texts)
    assert all(found[one] == found[other] for one, other in pairs)
    # No group without need: n members hang together by links, which take n - 1 pairs or more.
    names = list(range(len(texts)))
    for one, other in pairs:
        if names[one] != names[other]:
            gone = names[other]
            names = [names[one] if name == gone else name for name in names]
    assert len(set(found)) == len(set(names)) == 4396


def test_few_pairs_are_compared(collection, monkeypatch):
    """The index is what makes it quick: ten million pairs, and hardly any is looked at."""
    from llm.data import variants

    calls = Counter()
    monkeypatch.setattr(variants, "pieces", lambda text: calls.update([text]) or pieces(text))
    texts = [normalised(message.text) for message in collection.messages]
    variant_groups(texts)
    assert calls.total() < 2.2 * len(texts)  # two to build the index, the rest to compare


def test_a_campaign_is_not_compared_with_all_of_itself(monkeypatch):
    from llm.data import variants

    calls = Counter()
    monkeypatch.setattr(variants, "pieces", lambda text: calls.update([text]) or pieces(text))
    texts = campaign(0, 500)
    assert set(variant_groups(texts)) == {0}
    assert calls.total() < 4 * len(texts)  # one comparison each, not 250 on average


# Splits


def test_no_variants_stand_on_two_sides(collection, pairs):
    """What the split is for; and message by message it is not so, or this would show nothing."""
    for together in (True, False):
        crossing = 0
        for seed in SEEDS:
            parts = split(collection, seed, variants_together=together)
            where = {message: n for n, part in enumerate(parts) for message in part}
            sides = [where[message] for message in collection.messages]
            crossing += sum(sides[one] != sides[other] for one, other in pairs)
        assert crossing == 0 if together else crossing > 100


def test_every_message_is_in_one_part(collection):
    for seed in SEEDS:
        parts = split(collection, seed)
        assert Counter(m for part in parts for m in part) == Counter(collection.messages)


def test_each_class_has_its_shares_exactly(collection):
    total = Counter(message.label for message in collection.messages)
    for seed in SEEDS:
        parts = split(collection, seed)
        for label in (0, 1):
            counts = [sum(message.label == label for message in part) for part in parts]
            tests, validations = round(total[label] / 5), round(total[label] / 10)
            assert counts == [total[label] - tests - validations, validations, tests]


def test_the_seed_decides_the_split(collection):
    assert split(collection, 3) == split(collection, 3)
    parts = [split(collection, seed) for seed in (3, 4)]
    assert parts[0].test != parts[1].test and parts[0].validation != parts[1].validation


def test_variants_come_to_the_test_as_often_as_other_messages(collection, pairs):
    """Groups are not all pushed into the training: that would make the test a biased choice."""
    variants = {collection.messages[i] for pair in pairs for i in pair}
    drawn = sum(len(variants & set(split(collection, seed).test)) for seed in range(60))
    # Five standard deviations of 60 draws of some 60 groups; all in training would give 0.
    assert drawn / (60 * len(variants)) == pytest.approx(0.2, abs=0.045)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("limit", [None, 2, 3, 100, 10**6])
def test_message_by_message_is_the_split_of_before(collection, balanced, limit):
    for seed in SEEDS:
        found = split(collection, seed, balanced, limit, variants_together=False)
        assert found == frozen_split(collection, seed, balanced, limit)


def frozen_split(collection, seed, balanced, limit):
    """The split as it was before there were groups, kept to compare with."""
    draw = random.Random(seed)
    parts: tuple[list, list, list] = ([], [], [])
    for label in (0, 1):
        places = [i for i, message in enumerate(collection.messages) if message.label == label]
        draw.shuffle(places)
        tests, validations = max(1, round(len(places) / 5)), max(1, round(len(places) / 10))
        parts[2].extend(places[:tests])
        parts[1].extend(places[tests : tests + validations])
        parts[0].append(places[tests + validations :])
    negative, positive = parts[0]
    if balanced:
        size = min(len(negative), len(positive))
        negative, positive = negative[:size], positive[:size]
    total = len(negative) + len(positive)
    if limit is not None and limit < total:
        share = (2 * limit * len(positive) + total) // (2 * total)
        share = min(max(share, 1), limit - 1)
        negative, positive = negative[: limit - share], positive[:share]
    chosen = (negative + positive, parts[1], parts[2])
    return tuple([collection.messages[i] for i in sorted(places)] for places in chosen)


@pytest.mark.parametrize("balanced", [False, True])
def test_smaller_training_sets_are_parts_of_larger_ones(collection, balanced):
    whole = split(collection, 1, balanced)
    smaller: set = set()
    for limit in (2, 3, 5, 10, 30, 100, 300, 600, 10**6):
        parts = split(collection, 1, balanced, limit)
        assert len(parts.train) == min(limit, len(whole.train))
        assert {message.label for message in parts.train} == {0, 1}
        assert smaller <= set(parts.train) <= set(whole.train)
        assert parts[1:] == whole[1:] == split(collection, 1)[1:]
        smaller = set(parts.train)


def test_a_small_training_set_is_no_campaign():
    """Training messages are drawn one by one; only the parts are made of whole groups."""
    collection = made(words(100), campaign(0, 20) + words(80, start=200))
    shares = []
    for seed in SEEDS:
        of_campaign = [
            sum(
                message.text.startswith("\u6000")
                for message in split(collection, seed, limit=limit).train
            )
            for limit in (40, None)
        ]
        if of_campaign[1]:  # else the campaign is in another part
            assert 0 < of_campaign[0] < 15 < of_campaign[1]
            shares.append(of_campaign[0])
    assert len(shares) > 3


def test_groups_with_both_labels_stay_together():
    """Five pairs, each one of ham and one of spam, which are variants."""
    halves = [campaign(number, 2) for number in range(5)]
    ham, spam = zip(*halves)
    collection = made([*ham, *words(15)], [*spam, *words(15, start=100)])
    assert len(set(variant_groups([m.text for m in collection.messages]))) == 35
    sides = set()
    for seed in range(40):
        parts = split(collection, seed)
        where = {message.text: n for n, part in enumerate(parts) for message in part}
        assert all(where[one] == where[other] for one, other in halves)
        sides |= {where[one] for one in ham}
        for part, size in zip(parts, (14, 2, 4)):
            assert Counter(message.label for message in part) == {0: size, 1: size}
    assert sides == {0, 1, 2}


def test_the_question_task_has_groups_with_both_labels(pairs, collection):
    both = sum(collection.messages[a].label != collection.messages[b].label for a, b in pairs)
    assert (both > 0) == (collection.labels != LABELS)


def test_a_group_that_does_not_fit_is_passed_by():
    """30 of 40 spam messages are one campaign; test and validation fill up with the others."""
    collection = made(words(40), campaign(0, 30) + words(12, start=100))
    for seed in SEEDS:
        parts = split(collection, seed)
        assert [sum(message.label for message in part) for part in parts] == [30, 4, 8]


def test_a_class_of_large_groups_gives_one_to_each_part():
    """No group has room in a tenth or a fifth; the smallest two are moved all the same."""
    spam = campaign(0, 9) + campaign(1, 6) + campaign(2, 7)
    for ham in (words(20), campaign(3, 5) + campaign(4, 5) + campaign(5, 6)):
        for seed in SEEDS:
            parts = split(made(ham, spam), seed)
            assert sorted(sum(m.label for m in part) for part in parts) == [6, 7, 9]
            assert sum(m.label for m in parts.train) == 9
            assert all({m.label for m in part} == {0, 1} for part in parts)


def test_no_part_gives_its_last_group_away():
    """The two single messages fit into the test, the campaign nowhere: one goes to validation."""
    collection = made(words(20), campaign(0, 13) + words(2, start=99))
    for seed in SEEDS:
        parts = split(collection, seed)
        assert [sum(message.label for message in part) for part in parts] == [13, 1, 1]


@pytest.mark.parametrize(
    ("spam", "message"),
    [
        (["one text", "two texts"], "only 2 different spam messages"),
        (campaign(0, 9), "only 1 unrelated spam messages"),
        (campaign(0, 9) + words(1, start=99), "only 2 unrelated spam messages"),
    ],
)
def test_too_few_groups_to_split(spam, message):
    with pytest.raises(InputError, match=f"made.tsv: {message}"):
        split(made(words(9), spam), 0)
    if len(spam) > 2:
        apart = split(made(words(9), spam), 0, variants_together=False)
        assert sum(map(len, apart)) == 9 + len(spam)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9), st.booleans()), max_size=40),
    st.integers(0, 5),
)
def test_any_mixture_of_groups_is_split_or_refused(rows, seed):
    messages = {campaign(number, 10)[variant]: label for number, variant, label in rows}
    collection = made(*([t for t, label in messages.items() if label == k] for k in (0, 1)))
    groups = variant_groups([message.text for message in collection.messages])
    try:
        parts = split(collection, seed)
    except InputError:
        labels_of = {(group, m.label) for group, m in zip(groups, collection.messages)}
        of_class = Counter(label for _, label in labels_of)
        assert min(of_class[0], of_class[1]) < 3 or len(labels_of) > len(set(groups))
        return
    assert sum(map(len, parts)) == len(messages)
    for part in parts:
        assert {message.label for message in part} == {0, 1}
    where = {message: n for n, part in enumerate(parts) for message in part}
    sides = {(group, where[m]) for group, m in zip(groups, collection.messages)}
    assert len(sides) == len(set(groups))


def test_groups_are_found_once_for_many_seeds(monkeypatch):
    calls = []
    monkeypatch.setattr(
        split_module, "variant_groups", lambda texts: calls.append(1) or list(range(len(texts)))
    )
    collection = made(words(7), words(7, start=50))
    for seed in range(3):
        split(collection, seed)
    assert len(calls) == 1


# The everyday messages


def test_the_everyday_messages_are_new():
    messages = read_labelled(EVERYDAY)
    assert Counter(message.label for message in messages) == {0: 50, 1: 50}
    installed = read_labelled(sources._installed_path())  # copies and all
    texts = [normalised(message.text) for message in [*messages, *installed]]
    sizes = Counter(groups := variant_groups(texts))
    assert all(sizes[group] == 1 for group in groups[:100])
