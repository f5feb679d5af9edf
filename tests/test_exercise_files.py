"""The exercises as files: points, nbgrader's own commands, what is committed, what texts tell."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from kernels import ForkedKernels
from lessons import ASSIGNMENTS, LESSONS, NOTEBOOKS, Lesson, cells, checks_of, is_check
from nbclient import NotebookClient

nbgrader_utils = pytest.importorskip("nbgrader.utils", reason="nbgrader is not installed")

# What shows that a solution or a hidden test is left in the learner's copy.
MARKS = ("BEGIN SOLUTION", "END SOLUTION", "BEGIN HIDDEN TESTS", "END HIDDEN TESTS")
HEADING = re.compile(r"^## (\d\.\d) (.+) · (\d) points$", re.M)
EFFORT = re.compile(r"^\*Difficulty [1-5]/5, importance [1-5]/5, about \d+ minutes\*$", re.M)
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=str)


def is_demonstration(cell) -> bool:
    """A See-it cell: it trains and draws; no point depends on it."""
    return "demo" in cell.metadata.get("tags", [])


def said(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def code_of(path: Path, demonstrations: bool) -> nbformat.NotebookNode:
    """A notebook's code alone, with the See-it cells or without."""
    notebook = nbformat.read(path, as_version=4)
    cells_kept = [c for c in notebook.cells if demonstrations or not is_demonstration(c)]
    notebook.cells = [c for c in cells_kept if c.cell_type == "code"]
    return notebook


def anew(lesson: Lesson, folder: Path) -> nbformat.NotebookNode:
    """A cell after which the kernel knows nothing of the notebook before, and sits in `folder`."""
    lines = ["%reset -f", f"%cd -q {folder}", "import sys"]
    lines += ["for name in [n for n in sys.modules if n.startswith('checks_')]:"]
    lines += ["    del sys.modules[name]", "import torch", "torch.set_grad_enabled(True);"]
    return nbformat.v4.new_code_cell("\n".join(lines), id=f"{lesson}-anew")


@pytest.mark.parametrize("solved", [True, False], ids=["solved", "untouched"])
def test_points_as_nbgrader_counts_them_and_every_see_it_cell_shows_something(solved, monkeypatch):
    """All notebooks in one kernel that forgets one before the next, with the hidden tests of the
    source. The See-it cells of the solutions run with one step of training each: what they show is
    not checked, that they show it is."""
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parent))  # the kernel inherits it
    monkeypatch.setenv("EXERCISE_STEPS", "1")
    notebook = nbformat.v4.new_notebook()
    for lesson in LESSONS:
        folder = lesson.solutions if solved else lesson.student
        part = code_of(folder / lesson.name, demonstrations=solved)
        for number, cell in enumerate(part.cells):
            if nbgrader_utils.is_grade(cell):
                grade_id = cell.metadata.nbgrader.grade_id
                cell.source = cells(lesson.solutions, lesson.name)[grade_id].source
            cell.id = f"{lesson}-{number}"
        notebook.cells += [anew(lesson, folder), *part.cells]
    where = {"metadata": {"path": str(NOTEBOOKS)}}
    options = {"timeout": 300, "allow_errors": True, "kernel_manager_class": ForkedKernels}
    NotebookClient(notebook, resources=where, **options).execute()
    graded = [c for c in notebook.cells if nbgrader_utils.is_grade(c)]
    outputs = [output for c in notebook.cells for output in c.get("outputs", [])]
    errors = [output for output in outputs if output.output_type == "error"]
    count = sum(len(lesson.exercises) for lesson in LESSONS)
    assert len(errors) == (0 if solved else count), errors
    if solved:  # what is committed is what a check says today
        known = [cells(lesson.solutions, lesson.name).values() for lesson in LESSONS]
        committed = [cell for part in known for cell in part if is_check(cell)]
        assert [said(cell) for cell in graded] == [said(cell) for cell in committed]
    for error in errors:  # one sentence, and no traceback
        assert "is not solved yet" in error.traceback[0] and len(error.traceback) <= 2
    scores = [nbgrader_utils.determine_grade(cell) for cell in graded]
    assert len(scores) == count
    assert [got for got, _ in scores] == [solved * most for _, most in scores]
    for cell in filter(is_demonstration, notebook.cells):
        assert cell.outputs, cell.source


def test_a_teacher_can_use_nbgrader_as_it_is(tmp_path):
    """Generate, hand in, grade, on one short notebook: the commands of TEACHING.md."""
    for file in ("nbgrader_config.py", "feedback_page.py"):
        shutil.copy(NOTEBOOKS / file, tmp_path)
    lesson = Lesson("lora", "1_the_layer.ipynb")
    source = tmp_path / "solutions" / "lora"
    source.mkdir(parents=True)
    for file in checks_of("lora"):
        shutil.copy(lesson.solutions / file, source)
    short = code_of(lesson.solutions / lesson.name, demonstrations=False)
    formula = r"$$\underbrace{x\,W^\top}_{\text{frozen}} + \tfrac{\alpha}{r}$$ and `$x$`"
    short.cells.append(nbformat.v4.new_markdown_cell(formula, id="formula"))
    nbformat.write(short, source / lesson.name)
    environment = {**os.environ, "PYTHONPATH": str(NOTEBOOKS.parent), "EXERCISE_STEPS": "1"}
    # nbgrader calls alembic, which lies beside Python.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"

    def nbgrader(*words):
        command = [sys.executable, "-m", "nbgrader", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    nbgrader("generate_assignment", "lora")
    handed_in = tmp_path / "submitted" / "ada" / "lora"
    shutil.copytree(source, handed_in)
    # A learner who switches the checks off: nbgrader puts its own back before it grades.
    mistakes = {"update": ("alpha / rank *", "alpha *"), "strength": ("rank**0.5", "root")}
    wrong = nbformat.read(handed_in / lesson.name, as_version=4)
    for cell in wrong.cells:
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
        if grade_id in mistakes:
            cell.source = cell.source.replace(*mistakes[grade_id])
        if grade_id == "update-check":
            cell.source = "pass"
    nbformat.write(wrong, handed_in / lesson.name)
    (handed_in / "checks_1.py").write_text("def check_update(*answers): pass\n")
    nbgrader("autograde", "lora")
    nbgrader("generate_feedback", "lora")

    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{tmp_path / 'gradebook.db'}") as book:
        submission = book.find_submission("lora", "ada")
        points = {g.name: g.auto_score for part in submission.notebooks for g in part.grades}
        assert points.pop("update-check") == points.pop("strength-check") == 0
        assert (submission.score, submission.max_score) == (sum(points.values()), 14)
        assert submission.score == 10
    graded = nbformat.read(tmp_path / "autograded" / "ada" / "lora" / lesson.name, as_version=4)
    shown = [o for cell in graded.cells for o in cell.get("outputs", []) if "traceback" in o]
    alpha, name = ("\n".join(output.traceback) for output in shown)
    assert alpha == ("1.1: You multiplied by alpha alone. Divide by the rank too: alpha / rank.")
    assert name.startswith("1.5: Your code uses a name that it does not know.")
    assert "of your cell:" in name and name.count("\n") <= 2
    page = (tmp_path / "feedback/ada/lora" / lesson.name).with_suffix(".html").read_text()
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page)  # nothing to fetch
    assert page.count("data:image/svg+xml") == 1 and "<code>$x$</code>" in page
    assert "plainly" in page  # the hidden tests, unless told otherwise (nbgrader_config.py)


def test_the_student_version_is_what_the_generator_makes(tmp_path):
    """If this fails: python notebooks/make_exercises.py"""
    shutil.copy(NOTEBOOKS / "nbgrader_config.py", tmp_path)
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    shutil.copytree(NOTEBOOKS / "solutions", tmp_path / "solutions", ignore=ignore)
    sys.path.insert(0, str(NOTEBOOKS))
    try:
        from make_exercises import release
    finally:
        sys.path.remove(str(NOTEBOOKS))
    release(tmp_path)
    assert sorted(path.name for path in (tmp_path / "exercises").iterdir()) == ASSIGNMENTS
    for assignment in ASSIGNMENTS:
        fresh, student = tmp_path / "exercises" / assignment, NOTEBOOKS / "exercises" / assignment
        made = sorted(path.name for path in fresh.iterdir())
        kept = sorted(p.name for p in student.iterdir() if p.suffix in (".ipynb", ".py"))
        names = [lesson.name for lesson in LESSONS if lesson.assignment == assignment]
        assert made == kept == sorted([*names, *checks_of(assignment)])
        for name in made:
            assert (fresh / name).read_text() == (student / name).read_text(), (
                f"{assignment}/{name}: run notebooks/make_exercises.py"
            )


@each_lesson
def test_what_is_committed(lesson):
    solved, student = (
        nbformat.read(f / lesson.name, as_version=4) for f in (lesson.solutions, lesson.student)
    )
    text = json.dumps(student)
    assert not [mark for mark in MARKS if mark in text]
    for cell in student.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
    for cell in solved.cells:
        if cell.cell_type == "code":
            assert cell.execution_count, f"{cell.source[:60]!r} has not been run"
            assert not [
                o for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"
            ]
        if "demo" in cell.metadata.get("tags", []):
            assert cell.outputs, f"{cell.source[:60]!r} shows nothing"
    for path in ("/home/", "/root", "/tmp", "site-packages"):
        assert path not in json.dumps(solved), path


@each_lesson
def test_each_exercise_tells_its_effort_and_a_quiz_explains_every_choice(lesson):
    text = [c.source for c in nbformat.read(lesson.student / lesson.name, 4).cells]
    headings = [cell for cell in text if HEADING.search(cell)]
    assert len(headings) == len(lesson.exercises)
    for cell in headings:
        assert EFFORT.search(cell), cell
    for cell in headings:
        assert len(re.findall("<details><summary>Hint", cell)) >= 2, cell
    quiz = next(cell for cell in text if cell.startswith("## Quiz"))
    questions = re.split(r"^\*\*\d\. ", quiz, flags=re.M)[1:]
    assert len(questions) >= 3
    for question in questions:
        choices = re.findall(r"<summary>(.+?)</summary>\n\n(.+?)\n</details>", question, re.S)
        assert len(choices) == question.count("<details>") >= 3, question
        assert sum(why.startswith("Right.") for _, why in choices) == 1, question


def test_the_teachers_page_and_readme_tell_the_points():
    page = (NOTEBOOKS / "TEACHING.md").read_text()
    readme = (NOTEBOOKS.parent / "README.md").read_text()
    for assignment in ASSIGNMENTS:
        here = [lesson for lesson in LESSONS if lesson.assignment == assignment]
        total = 0
        for lesson in here:
            notebook = nbformat.read(lesson.solutions / lesson.name, as_version=4)
            headings = HEADING.findall("\n".join(cell.source for cell in notebook.cells))
            for number, title, points in headings:
                assert f"| {number} | {title} | {points} |" in page
            known = cells(lesson.solutions, lesson.name)
            graded = [known[f"{name}-check"].metadata.nbgrader.points for name in lesson.exercises]
            assert [int(points) for *_, points in headings] == graded
            row = rf"^\| \*\*{lesson.number}\*\* \| \*\*.+\*\* \(.+\) \| \*\*{sum(graded)}\*\* \|"
            assert re.search(row, page, re.M)
            total += sum(graded)
        count = sum(len(lesson.exercises) for lesson in here)
        assert f"`{assignment}` | {len(here)} | {count} | {total} |" in page
    count = sum(len(lesson.exercises) for lesson in LESSONS)
    assert f"{count} exercises" in readme
