"""From the notebooks with solutions to the ones for students: run the first, make the second.

    python notebooks/make_exercises.py                  runs all of solutions/, makes exercises/
    python notebooks/make_exercises.py foundations      one assignment
    python notebooks/make_exercises.py foundations/2    one notebook of it
    python notebooks/make_exercises.py --no-run         runs nothing, only makes exercises/
    python notebooks/make_exercises.py lora --seed 7    a class's own variant, in classes/7/

An assignment is a folder of solutions/. The second part is `nbgrader generate_assignment` and
nothing else; edit only what lies in solutions/. Takes what is in requirements-dev.txt.
A variant asks for other numbers (class_variants.py). Its folder is a course of its own: solutions/
and exercises/ with nbgrader's settings.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from class_variants import make_solutions
from nbclient import NotebookClient

from llm.utils.files import write_text

HERE = Path(__file__).parent
SOLUTIONS = HERE / "solutions"


def run(path: Path) -> None:
    """Execute a notebook from top to bottom, and keep its outputs; an error in it ends this."""
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    options = {"timeout": 600, "record_timing": False, "coalesce_streams": True}
    NotebookClient(notebook, resources=where, **options).execute()
    notebook.metadata["language_info"] = {"name": "python"}  # not the version of this machine
    write_text(path, nbformat.writes(notebook) + "\n")


def release(course: Path, assignment: str = "*") -> None:
    """Make `exercises/` from `solutions/` in a folder with nbgrader's settings.

    assignment: a name, or a pattern for several, which one process makes.
    """
    subprocess.run(
        [sys.executable, "-m", "nbgrader", "generate_assignment", assignment]
        + ["--force", "--no-db", "--quiet"],
        cwd=course,
        check=True,
    )


def make_course(course: Path, assignment: str, seed: int) -> None:
    """A seed's variant of some assignments: solutions, not yet run, in a course of their own."""
    course.mkdir(parents=True, exist_ok=True)
    for file in ("nbgrader_config.py", "feedback_page.py"):
        shutil.copy(HERE / file, course)
    for source in sorted(SOLUTIONS.glob(assignment)):
        make_solutions(source, course / "solutions" / source.name, seed)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # sums over several threads round otherwise
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", default="*", help="an assignment or a notebook of it")
    parser.add_argument("--no-run", action="store_true", help="leave the outputs as they are")
    parser.add_argument("--seed", type=int, help="make the variant of this number")
    parser.add_argument("--out", type=Path, help="its folder (default: classes/SEED)")
    options = parser.parse_args()
    assignment, _, name = options.what.partition("/")
    course = HERE
    if options.seed is not None:
        course = (options.out or HERE / "classes" / str(options.seed)).resolve()
        make_course(course, assignment, options.seed)
    solutions = course / "solutions"
    chosen = sorted(solutions.glob(f"{assignment}/{name.removesuffix('.ipynb')}*.ipynb"))
    if not chosen:
        parser.error(f"there is no {options.what} in {SOLUTIONS.relative_to(HERE.parent)}")
    for path in [] if options.no_run else chosen:
        print(f"running {path.relative_to(solutions)}", flush=True)
        run(path)
    release(course, assignment)
    if course != HERE:
        print(f"the course of seed {options.seed} is in {course}")
