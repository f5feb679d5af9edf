"""From the notebooks with solutions to the ones for students: run the first, make the second.

    python notebooks/make_exercises.py             runs solutions/lora, then makes exercises/lora
    python notebooks/make_exercises.py --no-run    only makes exercises/lora

The second part is `nbgrader generate_assignment` and nothing else; edit only what lies in
solutions/. Takes what is in requirements-dev.txt.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from llm.utils.files import write_text

HERE = Path(__file__).parent
ASSIGNMENT = "lora"


def run(path: Path) -> None:
    """Execute a notebook from top to bottom, and keep its outputs; an error in it ends this."""
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    options = {"timeout": 600, "record_timing": False, "coalesce_streams": True}
    NotebookClient(notebook, resources=where, **options).execute()
    notebook.metadata["language_info"] = {"name": "python"}  # not the version of this machine
    write_text(path, nbformat.writes(notebook) + "\n")


def release(course: Path) -> None:
    """Make `exercises/` from `solutions/` in a folder with nbgrader's settings."""
    subprocess.run(
        [sys.executable, "-m", "nbgrader", "generate_assignment", ASSIGNMENT]
        + ["--force", "--no-db", "--quiet"],
        cwd=course,
        check=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-run", action="store_true", help="leave the outputs as they are")
    options = parser.parse_args()
    if not options.no_run:
        for notebook_path in sorted((HERE / "solutions" / ASSIGNMENT).glob("*.ipynb")):
            print(f"running {notebook_path.relative_to(HERE.parent)}", flush=True)
            run(notebook_path)
    release(HERE)
