"""The site: what it shows of the repository. Sphinx itself, which takes longer, runs in .ci/run."""

import re
import runpy

import make_site


def test_every_notebook_chapter_and_room_has_a_page(tmp_path):
    make_site.collect(tmp_path)
    index = (tmp_path / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"(?m)^[\w/.]+/[\w.]+$", index))
    pages = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.*") if path.suffix in PAGES}
    assert {page.with_suffix("").as_posix() for page in pages} == listed | {"index"}
    for folder, pattern in (("notebooks", "*.ipynb"), ("chapters", "ch*.py")):
        for path in (make_site.ROOT / folder).glob(pattern):
            assert f"{folder}/{path.stem}" in listed
    rooms = {path.parent.name for path in (make_site.ROOT / "llm").glob("*/__init__.py")}
    assert rooms == {name.removeprefix("library/") for name in listed if "library/" in name}


PAGES = (".md", ".ipynb")


def test_docstrings_keep_their_drawings(monkeypatch):
    monkeypatch.setenv("SITE_ROOT", str(make_site.ROOT))
    convert = runpy.run_path(str(make_site.SITE / "conf.py"))["as_restructured_text"]
    lines = ["Takes `x`:", "", "    x -- W --> y", "", "and more.", "", "| a | b |", "| - | - |"]
    convert(None, "module", "name", None, None, lines)
    text = "\n".join(lines)
    assert text.startswith("Takes ``x``:\n")
    assert "::\n\n        x -- W --> y\n\nand more.\n" in text
    assert "::\n\n    | a | b |\n    | - | - |" in text
