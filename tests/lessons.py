"""The exercises as tests see them: a notebook of solutions, its cells, and how to run them."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType

import nbformat
import torch

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
GRADIENTS = "a notebook's own setting"  # a key of its names


@dataclass(frozen=True)
class Lesson:
    """One notebook of an assignment; `name` is its file."""

    assignment: str
    name: str

    def __str__(self) -> str:
        return f"{self.assignment}-{self.number}"

    @property
    def number(self) -> str:
        """The first letter of its name, which its exercises carry too: 2 for 2.1, 2.2 …"""
        return self.name[0]

    @property
    def solutions(self) -> Path:
        """The folder with solutions and hidden tests."""
        return NOTEBOOKS / "solutions" / self.assignment

    @property
    def student(self) -> Path:
        """The folder that students get."""
        return NOTEBOOKS / "exercises" / self.assignment

    @property
    def mistakes(self) -> ModuleType:
        """Its tables of wrong answers (see mistakes/__init__.py)."""
        return importlib.import_module(f"mistakes.{self.assignment}_{self.number}")

    @cached_property
    def exercises(self) -> list[str]:
        """The names of its exercises, in order."""
        known = cells(self.solutions, self.name).items()
        return [name.removesuffix("-check") for name, cell in known if is_check(cell)]


LESSONS = [
    Lesson(path.parent.name, path.name)
    for path in sorted((NOTEBOOKS / "solutions").glob("*/*.ipynb"))
]
ASSIGNMENTS = sorted({lesson.assignment for lesson in LESSONS})


def checks_of(assignment: str) -> list[str]:
    """The files of checks beside an assignment's notebooks."""
    return sorted(p.name for p in (NOTEBOOKS / "solutions" / assignment).glob("*.py"))


@cache
def cells(folder: Path, name: str) -> dict[str, nbformat.NotebookNode]:
    """The cells of a notebook that nbgrader knows, by their name, in order."""
    notebook = nbformat.read(folder / name, as_version=4)
    known = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
    return {cell.metadata.nbgrader.grade_id: cell for cell in known}


def is_check(cell) -> bool:
    return cell.metadata.nbgrader.grade


def beside(assignment: str | None) -> None:
    """Let `import checks_1` find this assignment's file, as in a notebook in its folder."""
    here = [str(NOTEBOOKS / "solutions" / name) for name in ASSIGNMENTS]
    wanted = [] if assignment is None else [str(NOTEBOOKS / "solutions" / assignment)]
    if [path for path in sys.path if path in here] == wanted:
        return
    sys.path[:] = wanted + [path for path in sys.path if path not in here]
    for module in [name for name in sys.modules if name.startswith("checks_")]:
        del sys.modules[module]


def execute(source: str, namespace: dict) -> None:
    """Run a cell, without its lines of magic."""
    lines = (line for line in source.splitlines() if not line.startswith("%"))
    exec(compile("\n".join(lines), "cell", "exec"), namespace)


@cache
def prepared(lesson: Lesson) -> dict:
    """What the notebook's first cell defines."""
    beside(lesson.assignment)
    namespace: dict = {"__name__": "__main__"}
    execute(cells(lesson.solutions, lesson.name)["setup"].source, namespace)
    namespace[GRADIENTS] = torch.is_grad_enabled()  # a notebook may turn them off, for itself
    torch.set_grad_enabled(True)
    return namespace


@cache
def random_states(lesson: Lesson) -> dict[str, torch.Tensor]:
    """The state of the random numbers before each cell of the solutions."""
    states: dict[str, torch.Tensor] = {}
    failures(lesson, {}, before=lambda cell: states.setdefault(cell, torch.get_rng_state()))
    return states


def failures(
    lesson: Lesson,
    replaced: dict[str, str],
    folder: Path | None = None,
    since: str = "",
    before: Callable[[str], object] = lambda cell: None,
) -> dict[str, Exception]:
    """Run all exercises of a notebook; which checks fail, and how.

    replaced: cells to run in another wording. folder: whose checks and answers to run.
    since: an exercise; the checks that come before it are passed over, since nothing in it can
    change what they say, and it finds the random numbers that it finds after them.
    before: called before each cell with its name.
    """
    beside(lesson.assignment)
    namespace = dict(prepared(lesson))
    states = random_states(lesson) if since else {}
    torch.manual_seed(1)
    failed: dict[str, Exception] = {}
    with torch.set_grad_enabled(namespace.pop(GRADIENTS)):
        for exercise, cell in cells(folder or lesson.solutions, lesson.name).items():
            if exercise == since:
                torch.set_rng_state(states[since])
                since = ""
            if exercise == "setup" or (since and is_check(cell)):
                continue
            before(exercise)
            try:
                execute(replaced.get(exercise, cell.source), namespace)
            except Exception as error:
                failed[exercise] = error
    return failed


def answer(lesson: Lesson, exercise: str, old: str, new: str) -> str:
    """The solution of an exercise with something else in one place."""
    source = cells(lesson.solutions, lesson.name)[exercise].source
    assert old in source, f"{exercise}: {old!r} is not in the solution any more"
    return source.replace(old, new)
