"""The checks of exercises 1.5 and 1.6. They hold answers: try first, read later."""

from collections import Counter

from llm.exercises import attempt, exercise, expect, same


@exercise("1.5")
def check_similarity(similarity):
    def alike(a, b):
        return attempt(similarity, a, b, hint="Is one of the sets empty?", of=ZeroDivisionError)

    # prize rizes izes! zes!! es!!! s!!!! and prize rizes izes?: two of seven are common
    mistakes = {
        "You divided by the number of runs of the first text. Divide by what either has.": 2 / 6,
        "You divided by the number of runs of the second text, or of the shorter one. Divide by "
        "what "
        "either has.": 2 / 3,
        "You divided by both numbers added up. What both have must not count twice: take the "
        "union.": 2 / 9,
        "Twice the common runs, divided by both numbers: that is Dice's measure. Jaccard divides "
        "by "
        "the union.": 4 / 9,
        "You compared letters. Take runs of five neighbours.": 6 / 8,
        "The last run is missing: it begins at letter len(text) - 5, and range(n) ends at n - 1.": 2
        / 5,
        "The ends are counted as well, runs of fewer than five letters. Stop where five are "
        "left.": 2 / 15,
        "Your runs have four letters. Take five.": 3 / 8,
        "Your runs lie end to end. One begins at every letter.": 1 / 2,
        "That is the number of runs in common. Divide it.": 2,
        "That is how different they are: 1 minus the answer.": 5 / 7,
    }
    what = "the similarity of prizes!!!! and prizes?"
    expect(alike("prizes!!!!", "prizes?"), 2 / 7, mistakes, what)
    assert same(alike("nananana", "nananan"), 1), (
        "Both nananana and nananan are made of nanan and anana alone, so they are alike to 1. A "
        "run "
        "that a text holds twice counts once: make sets of runs, not lists."
    )
    one = "urgentyourmobilenumberwasawardeda0prizeguaranteedcall0fromlandlineclaim0valid0hoursonly"
    changed = alike(one, one.replace("mobile", "phone"))
    return (
        f"A campaign that writes `phone` for `mobile`, in a text of {len(one)} letters, is "
        f"{changed:.2f} alike. From 0.8 on we call two messages variants."
    )


@exercise("1.6")
def check_split(split_whole_groups):
    singles = [100 + number for number in range(24)]
    groups = [number % 12 for number in range(36)]  # 12 groups of three, far from each other
    groups = [*groups[:20], *singles[:15], *groups[20:], *singles[15:]]
    tests = []
    for seed in range(12):
        given = list(groups)
        found = attempt(split_whole_groups, given, 15, seed)
        assert found is not None, "Nothing came back: end your function with `return train, test`."
        assert isinstance(found, tuple | list) and len(found) == 2, (
            "Two lists have to come back: end your function with `return train, test`."
        )
        train, test = map(list, found)
        _whole(train, test, groups)
        assert given == groups, (
            "The list of groups that you were given has changed: work on a copy."
        )
        tests.append(sorted(test))
    assert all(sorted(split_whole_groups(groups, 15, s)[1]) == tests[s] for s in range(12)), (
        "The same seed gave two different splits. Let Random(seed) decide everything, so that a "
        "result can be had again."
    )
    assert len({tuple(test) for test in tests}) > 6, (
        "Other seeds give the same split: shuffle the groups with Random(seed).shuffle."
    )
    sizes = {len(test) for test in tests}
    assert max(sizes) <= 15, (
        f"The test has {max(sizes)} messages, though 15 were allowed: count messages, not groups, "
        "and "
        "look before you add a group whether all of it fits."
    )
    assert sizes == {15}, (
        f"The test has {min(sizes)} messages, and 15 would have found room: when a group is too "
        "large for what is left, go on; a smaller one may fit."
    )
    return "No test message has a variant in training. The cell below counts what that changes."


def _whole(train: list, test: list, groups: list) -> None:
    """Raise AssertionError where a split loses or doubles a message, or parts a group."""
    everyone = Counter(train) + Counter(test)
    kinds = set(groups)
    assert set(everyone) <= set(range(len(groups))), (
        "These are numbers of groups, it seems. Return places: which messages, counted from 0."
        if set(everyone) <= kinds
        else "There are places that no message has: they go from 0 to len(groups) - 1."
    )
    twice = sorted(place for place, times in everyone.items() if times > 1)
    assert not (twice and set(everyone) != set(range(len(groups)))), (
        "These are numbers of groups, it seems. Return places: which messages, counted from 0."
    )
    assert not twice, f"Message {twice[0] if twice else 0} is there twice: each goes to one part."
    assert len(everyone) == len(groups), (
        f"{len(groups) - len(everyone)} messages are in neither part. What does not fit into the "
        "test "
        "goes to training."
    )
    of_test = {groups[place]: place for place in test}
    leak = next((place for place in train if groups[place] in of_test), None)
    assert leak is None, (
        f"A leak: messages {leak} and {of_test.get(groups[leak or 0])} are variants of each other, "
        "one is in "
        "training and one in the test. Shuffle groups, not messages, and move a group as a whole."
    )
