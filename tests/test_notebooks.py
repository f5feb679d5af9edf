"""The story notebooks run, are committed as they ran, and say what the committed results say."""

import ast
import hashlib
import re
from pathlib import Path

import pytest
from execute import differences, execute, machine, shown
from kernels import ForkedKernels

from llm.studies.report import END, START, up_to_date, with_table
from llm.studies.tables import results_table
from llm.utils.errors import InputError

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")

ROOT = Path(__file__).resolve().parents[1]
LORA = sorted((ROOT / "notebooks").glob("0[1-5789]_*.ipynb"))  # 6 is a text box
FOUNDATIONS = sorted((ROOT / "notebooks").glob("a[1-8]_*.ipynb"))  # chapters 1 to 6 and 8
STORIES = [*LORA, *FOUNDATIONS]
EXECUTE = "python notebooks/execute.py "
stories = pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell):
    """What a cell has printed, and the text of what it shows."""
    texts = []
    for output in cell.outputs:
        texts.append(output.get("text", ""))
        data = output.get("data", {})
        texts += [str(value) for kind, value in data.items() if kind.startswith("text/")]
    return "\n".join(texts)


def figures(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def ends_with_a_value(source):
    """Whether a notebook shows something after this cell: its last line is an expression."""
    lines = [line for line in source.splitlines() if not line.startswith("%")]
    body = ast.parse("\n".join(lines)).body
    return bool(body) and isinstance(body[-1], ast.Expr)


def test_the_stories_of_lora_are_there():
    assert [path.name[:2] for path in LORA] == ["01", "02", "03", "04", "05", "07", "08", "09"]


@stories
def test_it_runs_and_gives_the_committed_texts_numbers_and_figures(path, monkeypatch, tmp_path):
    """The claims of the prose are asserts in the cells: a wrong one ends the run."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # the runs that a notebook makes go with the test
    committed, fresh = read(path), execute(path, kernel_manager_class=ForkedKernels)
    drawn = [[figures(cell) for cell in code_cells(notebook)] for notebook in (committed, fresh)]
    assert drawn[0] == drawn[1]
    if committed.metadata.get("executed_on", machine()) != machine():
        pytest.skip("numbers are compared on the kind of processor that the notebook ran on")
    assert differences(committed, fresh) == [], f"run it again: {EXECUTE}{path.stem}"


def a_cell(text, *tags):
    output = nbformat.v4.new_output("stream", name="stdout", text=text)
    cell = nbformat.v4.new_code_cell("print(…)", outputs=[output], metadata={"tags": list(tags)})
    return nbformat.v4.new_notebook(cells=[cell])


def test_a_number_that_has_changed_is_found_and_a_time_is_not_one():
    assert differences(a_cell("1.25 MB\n"), a_cell("1.25 MB\n")) == []
    [found] = differences(a_cell("a\n1.25 MB\n"), a_cell("a\n1.26 MB\n"))
    assert found == "cell 0: committed '1.25 MB', now '1.26 MB'"
    assert len(differences(a_cell("a\n"), a_cell("a"))) == 1
    assert differences(a_cell("1 ms", "timing"), a_cell("2 ms", "timing")) == []
    assert shown(nbformat.v4.new_code_cell("x", outputs=[])) == []
    silent = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x")])
    assert differences(a_cell("1"), silent) == ["cell 0 shows 0 texts and not 1"]


def prose_of(source):
    """(text, lines) of the `Markdown(…)` that ends a cell and holds sentences; or None."""
    lines = [line for line in source.splitlines() if not line.startswith("%")]
    last = (ast.parse("\n".join(lines)).body or [None])[-1]
    if not (isinstance(last, ast.Expr) and isinstance(last.value, ast.Call)):
        return None
    if getattr(last.value.func, "id", "") != "Markdown":
        return None
    texts = [node for node in ast.walk(last.value) if isinstance(node, ast.JoinedStr)]
    if not any(len(ast.unparse(text)) > 100 for text in texts):
        return None  # a table, or a line
    return lines[last.lineno - 1 : last.end_lineno], lines


@stories
def test_a_cell_that_only_prints_prose_hides_its_source(path):
    """Prose that is computed: a third of the cell or more is its text. The lines do not run off."""
    for cell in code_cells(read(path)):
        text, lines = prose_of(cell.source) or ([], [])
        for line in text:
            # The row of a table is one line.
            assert len(line) <= 100 or "|" in line or path.name > "06", line
        if text and 3 * len(text) >= len(lines):
            assert cell.metadata.get("jupyter", {}).get("source_hidden"), cell.source
            assert "hide-input" in cell.metadata.get("tags", []), cell.source


@stories
def test_it_is_committed_as_it_ran(path):
    cells = code_cells(read(path))
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), f"run it from top to bottom: {EXECUTE}"
    for cell in cells:
        kinds = [output.output_type for output in cell.outputs]
        assert "error" not in kinds, cell.source
        assert not any(output.get("name") == "stderr" for output in cell.outputs), text_of(cell)
        if ends_with_a_value(cell.source):
            assert kinds, f"no output is committed below:\n{cell.source}"
    assert sum(map(figures, cells)) >= 2, "a story without figures"


@stories
def test_no_path_of_the_author_is_in_it(path):
    notebook = read(path)
    everything = "\n".join(cell.source for cell in notebook.cells)
    everything += "\n".join(map(text_of, code_cells(notebook)))
    found = re.findall(
        r"(?:/(?:work|root|home|tmp|Users|mnt|var)/|[A-Z]:\\|site-packages)", everything
    )
    assert not found


@stories
def test_no_number_of_the_prose_can_go_stale(path):
    """Text cells hold no measured number; one that they quote stands in a cell that asserts it."""
    notebook = read(path)
    code = "\n".join(cell.source for cell in code_cells(notebook))
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        prose = re.sub(r"\$\$.*?\$\$|\$.*?\$", "", cell.source, flags=re.DOTALL)  # formulas
        prose = re.sub(r"\]\([^)]*\)|`[^`]*`", "", prose)  # links and code
        prose = re.sub(r"(?:exercise|section) \d\.\d|(?:, and|;) \d\.\d|CC BY 4\.0", "", prose)
        for number in re.findall(r"\d[\d,]*\.\d+|\d[\d,.]* ?(?=%|[kMG]B|ms\b)", prose):
            assert number.strip() in code, f"{number!r} in: {cell.source}"


@stories
def test_the_results_it_read_are_those_that_are_committed(path):
    """A notebook prints which version of a result file it has read."""
    for cell in code_cells(read(path)):
        text = text_of(cell)
        for name, digest in re.findall(r"(data/\S+), SHA-256 ([0-9a-f]{16})", text):
            now = hashlib.sha256((ROOT / name).read_bytes()).hexdigest()
            assert now.startswith(digest), f"{name} has changed: {EXECUTE}{path.stem}"
        for name in re.findall(r"(data/\S+) is not there yet", text):
            assert not (ROOT / name).exists(), f"{name} is there now: {EXECUTE}{path.stem}"


def test_the_fourth_story_reads_the_committed_studies():
    text = "\n".join(map(text_of, code_cells(read(STORIES[3]))))
    assert "data/learning_curve.json, SHA-256" in text
    assert "data/results.json, SHA-256" in text


def test_one_message_goes_through_the_foundations():
    found = [
        re.search(r"^MESSAGE = .*$", cell.source, re.MULTILINE)
        for path in FOUNDATIONS
        for cell in code_cells(read(path))[:1]
    ]
    assert all(found) and len({match.group() for match in found}) == 1


def test_the_readme_lists_every_notebook():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("<!-- notebooks -->") : text.index("<!-- /notebooks -->")]
    listed = re.findall(r"\(notebooks/([^)]+)\)", table)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", FOUNDATIONS, ids=lambda path: path.stem)
def test_every_choice_of_a_quiz_explains_itself(path):
    """Every folded answer says something, after the blank line without which it is not shown."""
    quiz = read(path).cells[-1].source.split("## Quiz")[1]
    questions = re.split(r"^\*\*\d\.", quiz, flags=re.MULTILINE)[1:]
    assert 3 <= len(questions) <= 4
    for question in questions:
        choices = re.findall(r"<details><summary>(.+?)</summary>\n\n(.+?)\n</details>", question)
        assert len(choices) == question.count("<details>") >= 3
        assert sum("Right" in answer for _, answer in choices) == 1


def test_links_lead_to_files():
    """Not to folders, which Jupyter cannot open from a text."""
    pages = {path: [cell.source for cell in read(path).cells] for path in STORIES}
    for path in (ROOT / "README.md", *ROOT.glob("data/*.md"), *ROOT.glob("notebooks/*.md")):
        pages[path] = [path.read_text(encoding="utf-8")]
    for path, texts in pages.items():
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", "\n".join(t for t in texts if "](" in t)):
            if not link.startswith("http"):
                assert (path.parent / link).is_file(), f"{path.name}: {link}"


RESULTS = {
    "summary": {
        "lora": {
            "trainable_parameters": 231042,
            "trainable_share": 0.0254,
            "saved_bytes": 930_424,
            "peak_memory_bytes_mean": 361.2e6,
            "train_seconds_mean": 94.2,
            "test_accuracy_mean": 0.9888,
            "test_accuracy_std": 0.0026,
            "test_f1_mean": 0.953,
            "test_f1_std": None,
            "everyday_accuracy_mean": 0.8,
            "everyday_accuracy_std": 0.02,
        }
    },
    "baselines": {"majority": {"accuracy": 0.884, "f1": 0.0, "everyday": {"accuracy": 0.5}}},
}
COSTS = {"summary": {"lora": {"peak_memory_bytes_mean": 244e6, "train_seconds_mean": 75.3}}}


def test_the_table_has_the_numbers_of_the_results():
    lora, ham = results_table(RESULTS, COSTS).splitlines()[2:]
    cells = [cell.strip() for cell in lora.strip("|").split("|")]
    assert cells == [
        "LoRA",
        "231,042 (2.5 %)",
        "930 kB",
        "244.0 MB",
        "75 s",
        "98.9 ± 0.3 %",
        "95.3 %",
        "80.0 ± 2.0 %",
    ]
    assert ham.endswith("| 88.4 % | 0.0 % | 50.0 % |")


def test_the_table_takes_the_place_of_the_old_one():
    text = f"before\n{START}\nold\n{END}\nafter"
    assert with_table(text, "new") == f"before\n{START}\nnew\n{END}\nafter"
    with pytest.raises(InputError, match="no place"):
        with_table("no marks", "new")


def test_the_tables_of_the_readme_are_those_of_the_results():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert up_to_date(text) == text, "python -m llm.studies.report"
