"""The checks of exercises 2. They hold the answers to many questions: try first, read later."""

import math
from fractions import Fraction

import torch
from checks_variant import VARIANT

from llm.exercises.checks import attempt, exercise, expect, pair
from llm.lora.quantize import NF4_LEVELS

LEVELS = torch.tensor(NF4_LEVELS)
TIES = {
    "lower": "of two levels at the same distance, take the lower",
    "higher": "of two levels at the same distance, take the higher",
    "inner": "of two levels at the same distance, take the one nearer to zero",
    "outer": "of two levels at the same distance, take the one farther from zero",
}


@exercise("2.1")
def check_nearest(nearest):
    levels = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
    values = torch.tensor([-0.9, -0.6, -0.2, 0.1, 0.3, 0.7, 0.8])
    found = attempt(
        *(nearest, values, levels),
        hint="The shapes do not fit. values[:, None] - levels is a table of all distances, (n, "
        "levels).",
    )
    wanted = torch.tensor([0, 1, 2, 2, 3, 3, 4])
    mistakes = {
        "You gave the levels themselves. Asked for are their numbers, 0 for the first.": levels[
            wanted
        ],
        "You always went down: 0.3 is nearer to 0.5 than to 0. Compare with the middles between "
        "levels.": torch.tensor([0, 0, 1, 2, 2, 3, 3]),
        "You always went up: 0.1 is nearer to 0 than to 0.5. Compare with the middles between "
        "levels.": torch.tensor([1, 1, 2, 3, 3, 4, 4]),
        "You took the farthest level: the smallest distance is wanted, argmin.": torch.tensor(
            [4, 4, 4, 0, 0, 0, 0]
        ),
        "The distance has lost its absolute value: the most negative difference won.": torch.tensor(
            [4, 4, 4, 4, 4, 4, 4]
        ),
        "You began to count at 1; the first level is number 0.": wanted + 1,
    }
    expect(found, wanted, mistakes, what="the numbers of the nearest levels")
    middles = torch.tensor([-0.75, 0.75])
    answers = {"lower": [0, 3], "higher": [1, 4], "inner": [1, 3], "outer": [0, 4]}
    tie = VARIANT["tie"]
    found = attempt(nearest, middles, levels)
    if not torch.equal(torch.as_tensor(found).long(), torch.tensor(answers[tie])):
        raise AssertionError(
            f"-0.75 and 0.75 lie in the middle between two levels: {TIES[tie]}, so the numbers are "
            f"{answers[tie]}, and yours are {torch.as_tensor(found).tolist()}."
        )
    return (
        "A number became the number of a level, which fits into four bits if there are 16 of them. "
        "That is all that quantising is; the rest is to choose the levels well."
    )


@exercise("2.2")
def check_block(quantise_block):
    dtype = VARIANT["scale_dtype"]
    block = torch.tensor([0.31, -0.12, 0.05, -0.61, 0.0, 0.44])
    found = attempt(
        *(quantise_block, block),
        hint="The shapes do not fit. block is (n,), and so are the numbers; the scale is a single "
        "number.",
    )
    numbers, scale = pair(found, "numbers", "scale")
    scales = {
        "You took the largest value; the weight farthest from zero is the negative -0.61. Take "
        "absolute values first.": 0.44,
        "The scale has kept its sign: take the largest absolute value.": -0.61,
        "You took the range from the smallest to the largest. The levels lie from -1 to 1, so the "
        "scale is the largest absolute value.": 1.05,
        "You took the standard deviation. One weight has to become exactly 1 or -1: take the "
        "largest absolute value.": block.std().item(),
        "You took the mean of the absolute values; take their largest.": block.abs().mean().item(),
    }
    largest = torch.tensor(0.61)
    kept = largest.to(getattr(torch, dtype)).float()
    if dtype != "float32" and abs(float(scale) - 0.61) < 1e-7:
        raise AssertionError(
            f"The scale is kept in {dtype}: .to(torch.{dtype}).float() makes {kept:.6f} of 0.61. "
            "Round it first, then divide by what is kept."
        )
    expect(scale.float(), kept, scales, what="the scale")
    wanted = (block[:, None] / kept - LEVELS).abs().argmin(1)
    mistakes = {
        "You looked for the nearest level without dividing by the scale first.": (
            (block[:, None] - LEVELS).abs().argmin(1)
        ),
        "You multiplied by the scale; divide, and the weights reach from -1 to 1.": (
            (block[:, None] * kept - LEVELS).abs().argmin(1)
        ),
        "Those are the levels; asked for are their numbers, 0 to 15.": LEVELS[wanted],
        "Those are the weights as they will come back; asked for are the levels' numbers, 0 to "
        "15.": LEVELS[wanted] * kept,
    }
    expect(numbers, wanted, mistakes, what="the numbers of the levels")
    numbers, scale = pair(attempt(quantise_block, torch.zeros(3)), "numbers", "scale")
    assert numbers.tolist() == [7, 7, 7] and float(scale) == 0, (
        "A block of zeros has the scale 0 and the number 7 three times, the level 0; yours gives "
        f"{float(scale):g} and {numbers.tolist()}. 0 / 0 is no number: divide by the scale only "
        "where it is not 0."
    )
    error = (LEVELS[wanted] * kept - block).abs().max()
    return (
        f"Six weights in 6 x 4 bits and one scale. None is off by more than {error:.3f}; the "
        "largest comes back as it was."
    )


@exercise("2.3")
def check_matrix(quantised_and_back):
    size = VARIANT["block"]
    torch.manual_seed(0)
    W = torch.randn(3, 50) * torch.tensor([[1.0], [8.0], [0.2]])  # rows of unlike size

    def cut(weight, length):
        blocks = weight.reshape(-1).split(length)
        return torch.cat([_by_hand(block) for block in blocks]).view(weight.shape)

    found = attempt(
        *(quantised_and_back, W),
        hint=f"The blocks do not fit: 150 weights are {150 // size} whole blocks of {size} and a "
        "short one. tensor.split(size) leaves the last one short; .view(-1, size) cannot.",
    )
    assert torch.is_tensor(found), "Give back a matrix, as one tensor."
    mistakes = {
        "One scale for the whole matrix: the small rows have become zeros. Cut blocks first.": cut(
            W, 150
        ),
        f"A scale for each row. The blocks are {size} weights long, whatever the rows are.": cut(
            W, 50
        ),
        "Blocks are cut along the columns. Take the weights as they lie in memory, row by row: "
        "W.flatten().": cut(W.T, size).T,
        f"The blocks have 64 weights; here they have {size}.": cut(W, 64) if size != 64 else W + 1,
        "W came back untouched: use what your function of 2.2 does, and multiply the levels by "
        "the scale.": W,
        "The levels came back without their scales: multiply each block by its own.": torch.cat(
            [_by_hand(block) / block.abs().max() for block in W.reshape(-1).split(size)]
        ).view(W.shape),
    }
    expect(found, cut(W, size), mistakes, what="the matrix that comes back")
    error = ((found - W).norm() / W.norm()).item()
    return (
        f"The matrix comes back with an error of {100 * error:.1f} % of its size. bitsandbytes, "
        "which QLoRA is usually run with, gives the same numbers."
    )


def _by_hand(block: torch.Tensor) -> torch.Tensor:
    """A block as NF4 gives it back, by the table of all distances."""
    scale = block.abs().max()
    return LEVELS[(block[:, None] / scale - LEVELS).abs().argmin(1)] * scale


@exercise("2.4")
def check_packing(pack):
    high, filler = VARIANT["first_half"] == "high", VARIANT["filler"]

    def packed(numbers, filler=filler, factor=16, high=high):
        numbers = numbers + [filler] * (len(numbers) % 2)
        halves = list(zip(numbers[::2], numbers[1::2]))
        return torch.tensor([factor * a + b if high else a + factor * b for a, b in halves])

    numbers = [1, 2, 15, 0, 9, 4]
    found = attempt(
        *(pack, torch.tensor(numbers)),
        hint="The shapes do not fit: numbers[::2] are the first of each pair, numbers[1::2] the "
        "second.",
    )
    half = "high" if high else "low"
    mistakes = {
        f"The halves are swapped: the first number goes into the {half} half, the one "
        f"{'multiplied by 16' if high else 'that is not multiplied'}.": packed(
            numbers, high=not high
        ),
        "You multiplied by 10; a half has four bits, so it is 16.": packed(numbers, factor=10),
        "You multiplied by 4; four bits hold 16 numbers, so it is 16.": packed(numbers, factor=4),
        "The two numbers of a pair are added: one of them has to be moved up by four bits "
        "first.": packed(numbers, factor=1),
        "You paired the first half of the row with the second; pair neighbours.": packed(
            [1, 0, 2, 9, 15, 4]
        ),
        "Nothing is packed: two numbers go into one byte.": torch.tensor(numbers),
    }
    expect(found, packed(numbers), mistakes, what="the bytes")
    assert found.dtype == torch.uint8, (
        f"The bytes are kept as {found.dtype}, which takes {found.element_size()} bytes for each: "
        "end with .to(torch.uint8)."
    )
    found = attempt(
        *(pack, torch.tensor([3, 5, 12, 1, 9])),
        hint="Five numbers do not make pairs: fill up with one more first.",
    )
    mistakes = {
        "The last of an odd number of weights is lost: fill up first.": packed([3, 5, 12, 1]),
        f"An odd row is filled up with 0; here it is {filler}.": packed([3, 5, 12, 1, 9], filler=0),
    }
    expect(found, packed([3, 5, 12, 1, 9]), mistakes, what="the bytes of five numbers")
    return (
        f"Six weights in {len(packed(numbers))} bytes; in float32 they had 24. A computer cannot "
        "count in half bytes, so every program for four bits does this."
    )


@exercise("2.5")
def check_bits(bits_per_weight):
    scale, short = VARIANT["scale_bits"], VARIANT["short_bits"]
    exact = 4 + Fraction(scale, 64)
    mistakes = {
        "That is the cost of the scales alone; the weights have four bits each.": exact - 4,
        "A scale is shared by 64 weights: divide, do not multiply.": 4 + 64 * scale,
        "A scale's bits are added to each weight; but 64 weights share it.": 4 + scale,
        "You counted the weights in bytes, half a one each; in bits they are four.": Fraction(1, 2)
        + exact
        - 4,
        f"The scale's {scale} bits are {scale // 8} bytes; count in bits here.": 4
        + Fraction(scale // 8, 64),
    }
    if scale != 32:
        mistakes[f"A scale has {scale} bits in this exercise, not 32."] = 4 + Fraction(32, 64)
    found = attempt(bits_per_weight, 64)
    expect(
        found, float(exact), _numbers(mistakes), what="bits a weight, blocks of 64, plain scales"
    )
    double = 4 + Fraction(short, 64) + Fraction(scale, 64 * 256)
    mistakes = {
        f"The scales are still counted in full: with double quantisation each has {short} bits.": 4
        + Fraction(scale, 64)
        + Fraction(scale, 64 * 256),
        "Nothing has changed: with `second` given, the scales are quantised, too.": exact,
        "The second scales are missing: one for every 256 scales.": 4 + Fraction(short, 64),
        "A second scale is shared by 256 scales, and so by 64 times 256 weights, not by 256 "
        "weights.": 4 + Fraction(short, 64) + Fraction(scale, 256),
        f"The second scale has {scale} bits, as it is not quantised.": 4
        + Fraction(short, 64)
        + Fraction(short, 64 * 256),
    }
    if short != 8:
        mistakes[f"A quantised scale has {short} bits in this exercise, not 8."] = (
            4 + Fraction(8, 64) + Fraction(scale, 64 * 256)
        )
    found = attempt(bits_per_weight, 64, 256)
    expect(found, float(double), _numbers(mistakes), what="bits a weight with double quantisation")
    # The wide matrices of a block of GPT-2 XL hold 12 x 1600^2 numbers, and there are 48 blocks.
    matrices = 48 * 12 * 1600**2
    gigabytes = [matrices * bits / 8 / 1e9 for bits in (32, float(exact), float(double))]
    return (
        f"The matrices of GPT-2 XL take {gigabytes[0]:.2f} GB in float32, {gigabytes[1]:.2f} in "
        f"four bits, {gigabytes[2]:.2f} with double quantisation: {float(double):.3f} bits a "
        f"weight. It spares {math.floor(1000 * (gigabytes[1] - gigabytes[2]))} MB."
    )


def _numbers(mistakes: dict) -> dict:
    return {hint: float(wrong) for hint, wrong in mistakes.items()}
