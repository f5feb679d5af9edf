"""Long work shows that it is alive, and leaves nothing behind."""

from pathlib import Path

import nbformat
import progress as in_notebooks
import pytest
from nbclient import NotebookClient

from llm.utils import progress as shared

shared.cell_bar = None  # which the import has set, for all tests of this process
NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


@pytest.fixture
def pages(monkeypatch):
    """What a cell's output has shown, one after the other."""
    shown = []

    class Handle:
        def update(self, page, raw):
            shown.append(page["text/html"])

    def display(page, raw, display_id):
        shown.append(page["text/html"])
        return Handle()

    monkeypatch.setattr(in_notebooks, "display", display)
    monkeypatch.setattr(in_notebooks, "_output", in_notebooks.CellOutput())
    monkeypatch.setattr(shared, "cell_bar", in_notebooks.CellBar)
    return shown


def test_bars_inside_one_another_are_shown_together(pages):
    for _ in shared.progress("ab", desc="outer"):
        with shared.progress(total=5, desc="inner <i>", mininterval=0) as bar:
            bar.update(5)
    both = [page for page in pages if "outer" in page and "inner &lt;i&gt;" in page]
    assert any("5/5" in page for page in both)
    assert pages[-1] == ""


def test_a_bar_is_gone_after_an_error(pages):
    with pytest.raises(ValueError):
        for _ in shared.progress("ab"):
            raise ValueError
    assert pages[-1] == ""


def test_quiet_work_shows_nothing(pages):
    assert list(shared.progress("ab", quiet=True)) == ["a", "b"]
    assert pages == []


def test_nothing_is_written_where_there_is_no_terminal(monkeypatch, capfd):
    monkeypatch.setattr(shared, "cell_bar", None)
    assert list(shared.progress("ab")) == ["a", "b"]
    assert capfd.readouterr() == ("", "")


def test_a_cell_keeps_one_empty_output(tmp_path):
    """In a real kernel, as it would be committed."""
    code = f"import sys; sys.path[:0] = {[str(NOTEBOOKS), str(NOTEBOOKS.parent)]}\n"
    code += "from progress import progress\nprint(sum(progress(range(3))) + sum(progress([4])))"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output for output in notebook.cells[0].outputs if output.output_type != "stream"]
    assert [output.data["text/html"] for output in shown] == [""]
    assert notebook.cells[0].outputs[-1].text == "7\n"
