"""The checks of exercises 3. They hold the answers to many questions: try first, read later."""

import torch
from checks_variant import VARIANT

from llm.exercises import attempt, exercise, expect, pair


@exercise("3.1")
def check_low_rank(low_rank):
    D = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))  # (out=6, in=9)
    found = attempt(
        *(low_rank, D, 2),
        hint="The matrices do not fit. Vh is V transposed already: its ROWS belong to the "
        "strengths, Vh[:rank]; of U they are the COLUMNS, U[:, :rank].",
    )
    A, B = pair(found, "A", "B")
    assert A.shape != (2, 9), (
        "A is transposed: it is (in, rank), so Vh[:rank] has to be turned, .T."
    )
    assert A.shape != (6, 2), (
        "You took columns of Vh for A. Vh is V transposed already: its ROWS belong to the "
        "strengths."
    )
    assert A.shape == (9, 2), f"A has the shape {tuple(A.shape)}; it should be (in, rank) = (9, 2)."
    assert B.shape != (6, 2), (
        "B is transposed: it is (rank, out), so U[:, :rank] has to be turned, .T."
    )
    assert B.shape == (2, 6), (
        f"B has the shape {tuple(B.shape)}; it should be (rank, out) = (2, 6)."
    )
    strengths = torch.linalg.svdvals(D)
    mistakes = {
        "The strengths s are forgotten: all pieces have the same weight, 1. Multiply U (or Vh) by "
        "s.": torch.ones(2),
        "The strengths are in it twice. Put s into A or into B (or its root into both).": strengths[
            :2
        ]
        ** 2,
        "You kept the weakest pieces. torch.linalg.svd sorts from the strongest down: take the "
        "first.": strengths[-2:],
        "The strengths are in it by their root only: into one matrix s, or into both the "
        "root.": strengths[:2] ** 0.5,
    }
    copy = (A @ B).T
    expect(torch.linalg.svdvals(copy)[:2], strengths[:2], mistakes, "the strengths of the copy")
    lost = (D - copy).square().sum()
    expect(
        *(lost, strengths[2:].square().sum()),
        what="The strengths are right, but the directions are not: Vh is V transposed already, so "
        "its rows are the directions. What is lost",
    )
    held = 100 * (1 - lost / D.square().sum())
    return (
        f"Of the check's 6 x 9 matrix your copy of rank 2 holds {held:.0f} %, and no other of that "
        "rank holds more."
    )


@exercise("3.2")
def check_enough(rank_for_share):
    strengths, step = torch.tensor([4.0, 2.0, 2.0, 1.0]), VARIANT["enough_multiple"]

    def up(rank):
        return -(-rank // step) * step

    mistakes = {
        "Square the strengths: the size of a matrix is the root of the sum of their SQUARES.": up(
            3
        ),
        "Off by one: place 0 of the running sum is what rank 1 holds.": up(1),
        "That is a share, not a rank: count how many strengths it takes.": 0.8,
    }
    found = attempt(rank_for_share, strengths, 0.78)
    expect(found, up(2), mistakes, what="the rank that holds 78 %")
    mistakes = {
        "Off by one: rank 1 holds 64 % already, more than 60 %.": up(2),
        "Off by one: place 0 of the running sum is what rank 1 holds.": 0,
    }
    found = attempt(rank_for_share, strengths, 0.6)
    if step > 1:
        mistakes = {f"Only multiples of {step} are asked for: round up to the next.": 1}
    expect(found, up(1), mistakes, what="the rank that holds 60 %")
    found = attempt(rank_for_share, strengths, 0.97)
    expect(found, up(4), what="the rank that holds 97 %")
    return (
        "Now you can ask any matrix how much rank it needs; the next cell asks the change that "
        "full fine-tuning makes."
    )


@exercise("3.3")
def check_budget(largest_rank):
    shapes = dict.fromkeys(("W_query", "W_key", "W_value", "out_proj"), (256, 256))
    shapes |= {"fc1": (256, 1024), "fc2": (1024, 256)}
    mistakes = {
        "Rounded up: rank 9 costs 73,728, more than the budget. Round down.": 9,
        "The budget is for all 8 blocks together.": 68,
        "The budget is for all targets together, not for each.": 17,
        "That is the exact quotient; a rank is a whole number. Round down.": 70_000 / 8192,
        "In and out are added (A is in * rank, B is rank * out), not multiplied.": 0,
    }
    paid = attempt(largest_rank, shapes, ["W_query", "W_value"], 8, 70_000)
    expect(paid, 8, mistakes, what="the rank for queries and values with 70,000 numbers")
    found = attempt(largest_rank, shapes, ["fc1"], 8, 10_000)
    mistakes = {"Rank 1 would cost 10,240, more than the budget: then the answer is 0.": 1}
    expect(found, 0, mistakes, what="the rank for fc1 with 10,000 numbers")
    step = VARIANT["budget_multiple"]  # ranks that are asked for: 1, or multiples of more
    if step > 1:
        found = attempt(largest_rank, shapes, ["fc1"], 8, 10_240 * (step + 1))
        mistakes = {f"Only multiples of {step} are asked for: round down to one.": step + 1}
        expect(found, step, mistakes, what=f"the rank for fc1 where {step + 1} would fit")
    found = attempt(largest_rank, shapes, ["fc1"], 8, 10_240 * step)
    mistakes = {"A budget that is met exactly is not exceeded.": step - 1}
    what = f"the rank for fc1 with {10_240 * step:,} numbers"
    expect(found, step, mistakes, what=what)
    return (
        f"70,000 numbers buy rank {paid} on the queries and values of 8 blocks. Would a lower rank "
        "on more layers be better? Measure it, and let 3.4 choose."
    )


@exercise("3.4")
def check_choice(choose):
    metric = VARIANT["metric"]
    plans = [
        {"name": name, "parameters": size, f"validation_{metric}": seen, f"test_{metric}": unseen}
        for name, size, seen, unseen in (
            ("wide", 90_000, 0.94, 0.93),
            ("thrifty", 40_000, 0.94, 0.91),
            ("lucky", 60_000, 0.90, 0.97),
            ("rich", 300_000, 0.98, 0.96),
            ("tiny", 5_000, 0.80, 0.82),
        )
    ]
    asked = f"The scores are called validation_{metric} and test_{metric}."
    found = attempt(choose, plans, 100_000, hint=asked, of=KeyError)
    assert found is not None, "Nothing came back: does your function `return` the plan?"
    assert isinstance(found, dict), "Return the whole plan, the dictionary."
    mistakes = {
        f"You chose by the test score. It is no test then: choose by validation_{metric}.": (
            "lucky"
        ),
        "That plan exceeds the budget: leave out what it cannot pay for.": "rich",
        "Two plans are equally good on validation: take the one with fewer parameters.": "wide",
        f"That is the smallest plan, or the worst: take the highest validation_{metric}.": "tiny",
    }
    expect(found["name"], "thrifty", mistakes, what="the plan chosen")
    return "The test messages are still unseen, so one look at them is honest. The next cell looks."
