"""The exercises: solutions are right, untouched ones unsolved, and mistakes are named."""

import re
from collections import Counter

import pytest
from lessons import LESSONS, answer, beside, cells, failures, is_check


def table(which: str) -> list:
    """WRONG or RIGHT of all lessons, each line as a case of a test, under a short name."""
    lines = [(lesson, *line) for lesson in LESSONS for line in getattr(lesson.mistakes, which, [])]
    return [pytest.param(*line, id=f"{line[0]}-{line[1]}-{i}") for i, line in enumerate(lines)]


BY_HEART = [lesson for lesson in LESSONS if hasattr(lesson.mistakes, "BY_HEART")]
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=str)


@pytest.fixture(scope="module", autouse=True)
def leave_no_checks_behind():
    yield
    beside(None)


@each_lesson
def test_there_are_wrong_answers_for_every_exercise(lesson):
    tried = Counter(exercise for exercise, *_ in lesson.mistakes.WRONG)
    assert set(tried) == set(lesson.exercises)
    assert min(tried.values()) >= (3 if lesson.assignment == "lora" else 4), tried


@each_lesson
def test_solutions_pass_every_check_and_are_told_so(lesson, capsys):
    assert failures(lesson, {}) == {}
    said = capsys.readouterr().out
    right = re.findall(r"^(\d\.\d): right\. [A-Z1-9]", said, re.M)
    assert right == [f"{lesson.number}.{n}" for n in range(1, len(lesson.exercises) + 1)]
    assert max(map(len, said.splitlines())) < 100


@each_lesson
def test_no_mistake_that_a_check_knows_stands_in_the_learners_notebook(lesson):
    for cell in filter(is_check, cells(lesson.student, lesson.name).values()):
        assert re.fullmatch(r"check_\w+\(\w+\)", cell.source), cell.source


@each_lesson
def test_untouched_exercises_pass_no_check(lesson):
    failed = failures(lesson, {}, lesson.student)
    assert set(failed) == {f"{exercise}-check" for exercise in lesson.exercises}
    for error in failed.values():  # kindly, and not a hint about a mistake nobody made
        assert isinstance(error, NotImplementedError)
        assert re.match(r"\d\.\d is not solved yet\. Write your code where", str(error))


@pytest.mark.parametrize("lesson, exercise, old, new, hint", table("WRONG"))
def test_a_typical_mistake_is_named_and_fails_its_own_exercise_alone(
    lesson, exercise, old, new, hint
):
    check = f"{exercise}-check"
    # As the learner sees it: without the hidden tests.
    visible = cells(lesson.student, lesson.name)[check].source
    mistaken = {exercise: answer(lesson, exercise, old, new), check: visible}
    failed = failures(lesson, mistaken, since=exercise)
    assert set(failed) == {check}
    assert isinstance(failed[check], AssertionError)
    assert re.search(hint, str(failed[check])), str(failed[check])


@pytest.mark.parametrize("lesson, exercise, old, new", table("RIGHT"))
def test_another_right_answer_is_accepted(lesson, exercise, old, new):
    assert failures(lesson, {exercise: answer(lesson, exercise, old, new)}) == {}


@pytest.mark.parametrize("lesson", BY_HEART, ids=str)
def test_an_answer_learned_by_heart_fails_in_the_hidden_tests(lesson):
    """Whoever returns what the visible check asks for, and nothing else, gets no points."""
    mine = lesson.mistakes.BY_HEART
    student = cells(lesson.student, lesson.name)
    visible = {f"{exercise}-check": student[f"{exercise}-check"].source for exercise in mine}
    assert failures(lesson, {**mine, **visible}) == {}
    assert set(failures(lesson, mine)) == set(visible)
