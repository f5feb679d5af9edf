"""A class's variant of the exercises: its own solutions solve it, and nobody else's."""

import json
import re
import runpy
import sys

import nbformat
import pytest
import torch
from class_variants import module, slots_of
from lessons import ASSIGNMENTS, LESSONS, NOTEBOOKS, Lesson, beside, cells, execute, is_check
from make_exercises import make_course, release

VARIED = [name for name in ASSIGNMENTS if slots_of(name)]
# The exercises whose answer is a number, or depends on one that a class may be told.
NUMERIC = {
    "lora": {"strength", "counting", "memory", "enough", "budget", "choice"},
    "beyond": {"padding", "packed", "bayes", "chances", "entropy"}
    | {"nearest", "block", "matrix", "packing", "bits"},
}


def numeric_of(lesson: Lesson) -> set[str]:
    return NUMERIC.get(lesson.assignment, set()) & set(lesson.exercises)


lessons_varied = pytest.mark.parametrize(
    "lesson", [lesson for lesson in LESSONS if numeric_of(lesson)], ids=str
)


@pytest.fixture(scope="module")
def courses(tmp_path_factory):
    """The courses of two seeds, and solutions/ as it is."""
    made = {None: NOTEBOOKS}
    for seed in (7, 8):
        made[seed] = tmp_path_factory.mktemp(f"class-{seed}")
        for assignment in VARIED:
            make_course(made[seed], assignment, seed)
    yield made
    beside(None)


def failed(courses, lesson: Lesson, checks, answers) -> set[str]:
    """The exercises that fail: the checks of one course, the answers of another."""
    folders = [courses[seed] / "solutions" / lesson.assignment for seed in (checks, answers)]
    beside(None)
    sys.path.insert(0, str(folders[0]))
    try:
        known, theirs = (cells(folder, lesson.name) for folder in folders)
        namespace: dict = {"__name__": "__main__"}
        torch.manual_seed(1)
        found = set()
        for name, cell in known.items():
            try:
                execute((cell if is_check(cell) else theirs[name]).source, namespace)
            except AssertionError:
                found.add(name.removesuffix("-check"))
        return found
    finally:
        sys.path.remove(str(folders[0]))
        for name in [name for name in sys.modules if name.startswith("checks_")]:
            del sys.modules[name]


@lessons_varied
def test_a_class_is_solved_by_its_own_solutions_and_not_by_the_published_ones(courses, lesson):
    assert failed(courses, lesson, checks=7, answers=7) == set()
    assert failed(courses, lesson, checks=7, answers=None) == numeric_of(lesson)


@lessons_varied
def test_nor_by_those_of_the_year_before(courses, lesson):
    assert failed(courses, lesson, checks=8, answers=8) == set()
    assert failed(courses, lesson, checks=8, answers=7) == numeric_of(lesson)


@pytest.mark.parametrize("assignment", VARIED)
def test_what_is_committed_is_the_variant_without_a_seed(assignment):
    slots = slots_of(assignment)
    assert {name for slot in slots.values() for name in slot["exercises"]} == NUMERIC[assignment]
    assert all(len(slot["choices"]) >= 3 for slot in slots.values())
    path = NOTEBOOKS / "solutions" / assignment / "checks_variant.py"
    assert path.read_text() == module(slots, None)


def test_no_choice_is_there_twice():
    for assignment in VARIED:
        for name, slot in slots_of(assignment).items():
            seen = {json.dumps(choice) for choice in slot["choices"]}
            assert len(seen) == len(slot["choices"]), name


def test_students_of_a_class_get_its_text_and_its_numbers(courses):
    release(courses[7], "beyond")
    student = courses[7] / "exercises" / "beyond"
    values = runpy.run_path(str(student / "checks_variant.py"))["VARIANT"]
    text = "\n".join(c.source for c in nbformat.read(student / "1_voices.ipynb", 4).cells)
    assert f"only those of the **{values['top_k']}** likeliest tokens remain" in text
    assert f"and **{values['ignored']}** for the last of each" in text
    assert "### BEGIN" not in text and not re.search(r'"_\w+"', json.dumps(values))


def test_a_place_that_was_edited_away_is_told(tmp_path, monkeypatch):
    import class_variants

    slots = slots_of("beyond")
    slots["top-k"]["places"].append("the <top_k> tokens that nobody wrote about")
    monkeypatch.setattr(class_variants, "slots_of", lambda name: slots)
    with pytest.raises(ValueError, match=r"beyond.json, top-k: .* stands in no notebook"):
        make_course(tmp_path, "beyond", 7)
