"""What the checks of the exercises share: call an answer, compare it, and name the mistake.

The checks themselves lie beside the notebooks, in checks_1.py and so on, one file a lesson:
nbgrader hands them out with the notebooks and puts them back before it grades. This file is part of
the library, which everyone who solves an exercise has installed. So each assignment finds it
wherever its folder lies, and the grader's own copy is the one that grades.
"""

import functools
import linecache
import os
import textwrap
import traceback
from contextlib import contextmanager

import torch

from llm.model.config import GPTConfig

# Steps of training in a See-it cell; a real run takes some hundreds. A teacher who grades a class
# sets the variable to 1: no check depends on it.
STEPS = int(os.environ.get("EXERCISE_STEPS", 30))

# A GPT-2 small enough to look at: three blocks, 16 numbers a token.
TINY = GPTConfig(vocab_size=61, context_length=24, emb_dim=16, n_heads=2, n_layers=3)

SIZES = (RuntimeError, IndexError, ValueError)  # what is raised where sizes do not fit


class Wrong(AssertionError):
    """A hint. A notebook shows it and no traceback (IPython asks `_render_traceback_`)."""

    def __init__(self, number: str, text: str):
        super().__init__(f"{number}: {text}")

    def _render_traceback_(self) -> list[str]:
        return textwrap.wrap(str(self), 96)


class NotSolved(NotImplementedError):
    """What an exercise that nobody has touched gets."""

    def __init__(self, number: str):
        super().__init__(
            f"{number} is not solved yet. Write your code where it says YOUR CODE HERE in the "
            "cell above, run that cell, and then this one again."
        )

    _render_traceback_ = Wrong._render_traceback_


@contextmanager
def plainly(number: str):
    """What goes wrong inside the block is said in a few lines, under the exercise's number."""
    try:
        yield
    except AssertionError as error:
        raise Wrong(number, str(error)) from None
    except Exception as error:
        if _untouched(error):
            raise NotSolved(number) from None
        raise Wrong(
            number,
            f"What your code gave back is of another kind than was asked for. {_said(error)}",
        ) from None


def exercise(number: str):
    """Make a check of a function: it prints that an answer is right, or raises a hint.

    What the function returns is said after the word "right": what the answer makes possible.
    """

    def decorate(check):
        @functools.wraps(check)
        def run(*answers) -> None:
            with plainly(number):
                possible = check(*answers)
            print(textwrap.fill(f"{number}: right. {possible}", 96))

        return run

    return decorate


def attempt(function, *inputs, hint="", of=SIZES):
    """Call the learner's code, and return what it returns.

    Args:
        hint: what an error probably means,
        of: if it is one of these. Others are told in Python's own words, with the line.

    Raises:
        AssertionError: the hint. NotImplementedError where nothing has been written yet.
    """
    try:
        return function(*inputs)
    except Exception as error:
        if _untouched(error):
            raise
        raise AssertionError(_reason(error, hint, of)) from error


def pair(found, first: str, second: str):
    """The two tensors that a function gave back. Raises AssertionError where it gave others."""
    wanted = f"end your function with `return {first}, {second}`"
    if found is None:
        raise AssertionError(f"Nothing came back: {wanted}.")
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise AssertionError(f"Two things have to come back: {wanted}. Yours gave {_kind(found)}.")
    for name, value in zip((first, second), found, strict=True):
        if not torch.is_tensor(value):
            raise AssertionError(f"{name} should be a tensor, and yours is {_kind(value)}.")
    return found


def same(found, wanted) -> bool:
    """Equal to rounding, shapes included; for numbers, tensors, and lists and dicts of them."""
    if isinstance(wanted, dict):
        return (
            isinstance(found, dict)
            and set(found) == set(wanted)
            and all(same(found[key], wanted[key]) for key in wanted)
        )
    if isinstance(wanted, str | bool | None) or isinstance(found, str | bool | None):
        return found == wanted
    if (
        isinstance(wanted, list | tuple)
        and wanted
        and not isinstance(wanted[0], int | float | list)
    ):
        return (
            isinstance(found, list | tuple)
            and len(found) == len(wanted)
            and all(same(one, other) for one, other in zip(found, wanted, strict=True))
        )
    try:
        one, other = (torch.as_tensor(value).detach().double() for value in (found, wanted))
    except (TypeError, ValueError, RuntimeError):
        return bool(found == wanted)
    return one.shape == other.shape and torch.allclose(one, other, atol=1e-5, rtol=1e-4)


def expect(found, wanted, mistakes=None, what="the result"):
    """Raise AssertionError unless `found` is `wanted`; say which known mistake it comes from.

    Args:
        mistakes: what a typical wrong answer gives, under the hint that names the mistake.
        what: the name of the value, for the message where no known mistake fits.
    """
    if found is None:
        raise AssertionError(f"{what} is None: does your function `return` it?")
    if same(found, wanted):
        return
    for hint, wrong in (mistakes or {}).items():
        if same(found, wrong):
            raise AssertionError(hint)
    shapes = [tuple(value.shape) for value in (found, wanted) if torch.is_tensor(value)]
    if len(shapes) == 2 and shapes[0] != shapes[1]:
        raise AssertionError(f"{what} has the shape {shapes[0]}, it should have {shapes[1]}")
    raise AssertionError(f"{what} should be {_short(wanted)}, but yours is {_short(found)}")


def _untouched(error: Exception) -> bool:
    """Whether the stub raised it. PyTorch has a NotImplementedError, too, for some kinds."""
    return isinstance(error, NotImplementedError) and "not solved yet" in str(error)


def _short(value) -> str:
    text = " ".join(str(value.detach() if torch.is_tensor(value) else value).split())
    return text if len(text) <= 160 else text[:157] + "..."


def _kind(value) -> str:
    if torch.is_tensor(value):
        return f"one tensor of the shape {tuple(value.shape)}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if hasattr(value, "__len__") else "")


def _reason(error: Exception, hint: str, of) -> str:
    if hint and isinstance(error, of):
        return f"{hint} {_said(error)}"
    if isinstance(error, NameError):
        return f"Your code uses a name that it does not know. {_said(error)}"
    if isinstance(error, TypeError) and "cannot assign" in str(error):
        return (
            "A layer's weight is a parameter, and no plain tensor can take its place. Change the "
            f"weight in place, with += or -=, in place of assigning a new one. {_said(error)}"
        )
    return f"Your code stopped. {_said(error)}"


def _said(error: Exception) -> str:
    words = str(error).strip().splitlines()
    named = ": ".join([type(error).__name__, *words[:1]])
    return f"(Python says {named}{_line(error)})"


def _line(error: Exception) -> str:
    """Where in the learner's cell it happened."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "ipykernel_" in frame.filename:
            text = linecache.getline(frame.filename, frame.lineno).strip()
            return f"; line {frame.lineno} of your cell: {text}"
    return ""
