"""How threads wait is decided where PyTorch is imported, so `llm` has to be imported before it."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The files of checks are imported by notebooks alone, and there after llm.
PROGRAMS = [*ROOT.glob("chapters/*.py"), *ROOT.glob("notebooks/*.py")]
NOTEBOOKS = [path for path in ROOT.glob("notebooks/**/*.ipynb") if ".ipynb_" not in str(path)]
BRING_TORCH = {"torch", "transformers", "peft", "bitsandbytes"}
BRING_TORCH |= {f"checks_{number}" for number in range(1, 10)}


def source(path):
    """A program's text, or that of a notebook's code cells from top to bottom."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text
    cells = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    lines = "\n".join("".join(cell) for cell in cells).splitlines()
    return "\n".join(line for line in lines if not line.startswith("%"))


def imported(text):
    """The packages that a text imports anywhere, in the order of its lines."""
    found = []
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found += [(node.lineno, name.split(".")[0]) for name in names]
    return [name for _, name in sorted(found, key=lambda one: one[0])]


@pytest.mark.parametrize("path", sorted([*PROGRAMS, *NOTEBOOKS]), ids=lambda path: path.stem)
def test_llm_comes_before_torch(path):
    text = source(path)
    names = imported(text)
    if "llm" not in names:  # a program without it sets the policy itself
        text = text.replace('os.environ.setdefault("OMP_WAIT_POLICY", "passive")', "import llm")
        names = imported(text)
    for number, name in enumerate(names):
        if name in BRING_TORCH:
            assert "llm" in names[:number], f"{path.name} imports {name} before llm"


@pytest.mark.parametrize(("given", "kept"), [(None, "passive"), ("active", "active")])
def test_importing_llm_sets_what_is_not_set(given, kept):
    environment = {name: text for name, text in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({"OMP_WAIT_POLICY": given} if given else {})
    says = "import os, sys, llm; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", says], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [kept, "False"]
