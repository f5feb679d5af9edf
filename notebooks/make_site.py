"""README, notebooks, chapters and the library's docstrings as one site that needs no network.

    pip install -r requirements-dev.txt
    python notebooks/make_site.py --out build/site

Open build/site/index.html; the search works from the disk, too. What is shown is copied from the
repository, notebooks with the outputs they are committed with: nothing is run. Every warning of
Sphinx, a broken link say, is an error.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "notebooks" / "site"  # Sphinx's settings

ORDER = ("a*.ipynb", "0*.ipynb")  # the notebooks, in the order of reading
TEXTS = ("GLOSSARY", "HANDOUT", "TEACHING", "PLANS", "ANSWERS", "PRACTITIONER", "CAPSTONE")


def main(arguments: list[str] | None = None) -> int:
    """Build the site. Returns Sphinx's exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    out = parser.parse_args(arguments).out.resolve()
    source = out.with_name(out.name + "-source")
    shutil.rmtree(source, ignore_errors=True)
    collect(source)
    shutil.copytree(SITE, source, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "_static").mkdir(exist_ok=True)
    (source / "site.css").rename(source / "_static" / "site.css")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-b", "html"]
    environment = {**os.environ, "SITE_ROOT": str(ROOT), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    status = subprocess.run([*command, str(source), str(out)], env=environment).returncode
    if status == 0:
        print(f"written: {out / 'index.html'}")
    return status


def collect(source: Path) -> None:
    """Copy what the site shows into `source`, under the paths it has in the repository."""
    notebooks = [path for pattern in ORDER for path in sorted((ROOT / "notebooks").glob(pattern))]
    exercises = sorted((ROOT / "notebooks" / "exercises").glob("*/*.ipynb"))
    texts = [ROOT / "notebooks" / f"{name}.md" for name in TEXTS]
    about = [ROOT / "data" / "README.md", ROOT / "data" / "speed.md"]
    for path in [*notebooks, *exercises, *texts, *about]:
        _copy(path, source)
    shown = [(ROOT / "README.md").read_text(encoding="utf-8")]
    shown += [path.read_text(encoding="utf-8") for path in (*texts, *about, *notebooks, *exercises)]
    for path in _linked(shown):
        _copy(path, source)

    chapters = [_chapter(path, source) for path in sorted((ROOT / "chapters").glob("*[0-9]*.py"))]
    rooms = [_room(path, source) for path in sorted((ROOT / "llm").iterdir()) if path.is_dir()]
    parts = {
        "Notebooks": [_name(path) for path in notebooks],
        "Exercises": [_name(path) for path in exercises],
        "Chapters": chapters,
        "To look up": [_name(path) for path in [*texts, *about]],
        "Library": [name for name in rooms if name],
    }
    trees = [
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(names) + "\n```\n"
        for caption, names in parts.items()
    ]
    # Solutions have no page; the link to them is for those who have the repository.
    readme = re.sub(r"\[([^\]]*)\]\(notebooks/solutions/[^)]*\)", r"\1", shown[0])
    (source / "index.md").write_text(readme + "".join(trees), encoding="utf-8")


def _name(path: Path) -> str:
    """How Sphinx calls a page."""
    return path.relative_to(ROOT).with_suffix("").as_posix()


def _copy(path: Path, source: Path) -> None:
    target = source / path.relative_to(ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix not in (".md", ".ipynb"):
        shutil.copyfile(path, target)
        return
    text = path.read_text(encoding="utf-8")
    # README is the site's first page, and that is called index.
    text = re.sub(r"\]\(((?:\.\./)+)README\.md", r"](\1index.md", text)
    target.write_text(text, encoding="utf-8")


def _linked(texts: list[str]) -> set[Path]:
    """Files that a text links to and that are not pages: results, figures, programs."""
    found = set()
    for text in texts:
        for link in re.findall(r"\]\(([^)\s#\\]+)", text):
            name = link.removeprefix("../").removeprefix("../").removeprefix("../")
            for folder in ("", "notebooks", "data"):
                path = ROOT / folder / name
                if path.is_file() and path.suffix not in (".md", ".ipynb"):
                    found.add(path)
    return found


def _chapter(path: Path, source: Path) -> str:
    """A page with a chapter's program, and its first lines as the title."""
    _copy(path, source)
    title = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.stem).split(
        "\n"
    )[0]
    page = source / "chapters" / f"{path.stem}.md"
    page.write_text(
        f"# {title.rstrip('.')}\n\n`python chapters/{path.name}`\n\n"
        f"```{{literalinclude}} {path.name}\n:language: python\n```\n",
        encoding="utf-8",
    )
    return f"chapters/{path.stem}"


def _room(folder: Path, source: Path) -> str | None:
    """A page with the docstrings of a room of the library."""
    modules = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("__"))
    if not modules:
        return None
    about = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    parts = [f"# llm.{folder.name}\n\n{about}\n"]
    for module in modules:
        name = f"llm.{folder.name}.{module}"
        parts.append(f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n")
    page = source / "library" / f"{folder.name}.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(parts), encoding="utf-8")
    return f"library/{folder.name}"


if __name__ == "__main__":
    raise SystemExit(main())
