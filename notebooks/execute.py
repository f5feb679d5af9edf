"""Run notebooks from top to bottom and keep their outputs, as the tests run them.

    python notebooks/execute.py 02_trainable_parameters 05_adapters
    python notebooks/execute.py                                      all of them, some minutes

On one thread, so that the numbers are the same wherever the processor is of the same kind: a sum
over two threads rounds otherwise. `tests/test_notebooks.py` runs each again and compares texts and
numbers with what is committed; cells whose output is a time carry the tag `timing` and are not
compared.
"""

import argparse
import os
import platform
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
# 06 is a text box: make_touch.py runs it and puts a picture in the place of the box.
NOTEBOOKS = [*sorted(HERE.glob("0[!6]*.ipynb")), *sorted(HERE.glob("a*.ipynb"))]


def machine() -> str:
    """The kind of processor and the version of PyTorch: with others, sums round otherwise."""
    import llm  # noqa: F401  (before torch; llm/__init__.py says why)

    # isort: split
    import torch

    kind = torch.backends.cpu.get_cpu_capability()
    return f"{platform.system()} {platform.machine()} {kind}, torch {torch.__version__}"


def execute(path: Path, **options) -> nbformat.NotebookNode:
    """A notebook as it is after a run; an error in a cell ends it. `options`: of NotebookClient."""
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    options = {"timeout": 600, "record_timing": False, "coalesce_streams": True, **options}
    NotebookClient(notebook, resources=where, **options).execute()
    return notebook


def shown(cell: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """(kind, text) of what stands under a cell: what it printed, and what it shows, but pictures.

    Nothing of a cell with the tag `timing`: its output is another one each time.
    """
    if cell.cell_type != "code" or "timing" in cell.metadata.get("tags", []):
        return []
    found: list[tuple[str, str]] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            if found and found[-1][0] == output.name:  # printed in two goes
                found[-1] = (output.name, found[-1][1] + output.text)
            else:
                found.append((output.name, output.text))
        for kind, text in sorted(output.get("data", {}).items()):
            if kind.startswith("text/"):
                found.append((kind, text))
    return found


def differences(committed: nbformat.NotebookNode, fresh: nbformat.NotebookNode) -> list[str]:
    """Where the outputs of two runs of a notebook differ, a line each; no cell may be missing."""
    found = []
    for number, (old, new) in enumerate(zip(committed.cells, fresh.cells, strict=True)):
        before, after = shown(old), shown(new)
        if [kind for kind, _ in before] != [kind for kind, _ in after]:
            found.append(f"cell {number} shows {len(after)} texts and not {len(before)}")
            continue
        for (_, one), (_, other) in zip(before, after):
            lines = zip([*one.splitlines(), ""], [*other.splitlines(), ""])
            here = next(((a, b) for a, b in lines if a != b), None)
            if here:
                found.append(f"cell {number}: committed {here[0]!r}, now {here[1]!r}")
            elif one != other:
                found.append(f"cell {number}: committed {len(one)} characters, now {len(other)}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="of notebooks, without .ipynb; default: all")
    parser.add_argument("--check", action="store_true", help="write nothing; say what differs")
    parser.add_argument("--threads", default="1", help="other numbers in the last digits")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = options.threads
    from llm.utils.files import write_text

    for path in [HERE / f"{name}.ipynb" for name in options.names] or NOTEBOOKS:
        before, now = nbformat.read(path, as_version=4), execute(path)
        for line in differences(before, now):
            print(f"{path.name}, {line}", flush=True)
        if options.check:
            continue
        for cell in now.cells:
            cell.metadata.pop("execution", None)  # when it ran
        now.metadata["language_info"] = {"name": "python"}  # not the version of this machine
        now.metadata["executed_on"] = machine()
        write_text(path, nbformat.writes(now) + "\n")
        print(f"written: {path.name}", flush=True)
