"""What the checks of the exercises share: compare an answer, and name the mistake.

nbgrader copies this file along with the notebooks, and puts it back before it grades.
"""

import os

import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch

# Steps of training in a See-it cell; a real run takes some hundreds. A teacher who grades a class
# sets the variable to 1: no check depends on it.
STEPS = int(os.environ.get("EXERCISE_STEPS", 30))


def attempt(function, *inputs, hint):
    """Call the learner's function; an error in it becomes a hint, "not done yet" stays what it is.

    Returns what the function returns. Raises AssertionError with the hint and Python's words.
    """
    try:
        return function(*inputs)
    except NotImplementedError:
        raise
    except Exception as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise AssertionError(f"{hint} (Python says: {words[0]})") from error


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


def _short(value) -> str:
    text = " ".join(str(value.detach() if torch.is_tensor(value) else value).split())
    return text if len(text) <= 160 else text[:157] + "..."
