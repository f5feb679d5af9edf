"""The sixth notebook shows pictures of its two text boxes, and they show what is so."""

import asyncio
import base64
import html
import json
import re
from pathlib import Path

import pytest
import text_box
from make_touch import NOTEBOOK, PICTURES, WIDGET
from matplotlib.testing.compare import compare_images
from writing_box import BEGINNING, TEMPERATURE, writing_box, written, written_page

from llm.figures.style import save_figure
from llm.inference.adapters import Adapters
from llm.inference.voices import Continuation, write
from llm.utils.paths import VOICES

COMMAND = "python notebooks/make_touch.py --notebook"
STORIES = sorted((Path(__file__).parents[1] / "notebooks").glob("0[1-5]_*.ipynb"))


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_the_picture_is_what_the_code_gives(path, tmp_path):
    drawn = save_figure(PICTURES[path](), tmp_path / path.name)
    differs = compare_images(str(path), str(drawn), tol=3)  # another machine's fonts and sums
    assert differs is None, f"{COMMAND}\n{differs}"


def test_the_notebook_shows_the_pictures_and_no_box():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert not any(WIDGET in output.get("data", {}) for output in outputs), COMMAND
    shown = ["".join(output.get("data", {}).get("image/png", "")) for output in outputs]
    for path in PICTURES:
        assert base64.b64encode(path.read_bytes()).decode() in "".join(shown), COMMAND


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_every_story_leads_to_the_box(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert f"({NOTEBOOK.name})" in text


@pytest.fixture(scope="module")
def voices():
    return Adapters.load({f"{name} voice": folder for name, folder in VOICES.items()})


def text_of(page):
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", page)).split())


def test_the_second_box_shows_what_the_base_and_each_voice_write_alone(voices, monkeypatch):
    monkeypatch.setattr("writing_box.TOKENS", 12)
    *_, texts = written(voices, BEGINNING + " ")  # a space at the end changes nothing
    assert list(texts) == ["base", "ham voice", "spam voice"]
    for name, one in texts.items():
        voices.use(None if name == "base" else name)
        alone = write(voices, BEGINNING, 12, temperature=TEMPERATURE, seed=0)
        assert one.text == alone
        assert " ".join(alone.split()) in text_of(written_page(BEGINNING, texts))
    voices.use(None)
    assert len({one.text for one in texts.values()}) == 3


def test_what_is_typed_and_what_is_written_are_shown_as_text():
    texts = {
        "<b>": Continuation("<img src=x onerror=alert(1)>", True),
        "a": Continuation("", False),
    }
    page = written_page("<script>" + "x" * 500, texts)
    assert set(re.findall(r"<(\w+)", page)) == {"div", "table", "tr", "td", "b", "span"}
    assert "<script>" in text_of(page) and "<img src=x onerror=alert(1)>" in text_of(page)
    assert "(ends here)" in text_of(page)
    assert "overflow-wrap:anywhere" in page
    assert not re.search(r"(?<![-\w])color:|background:(#|white|black)", page), "no theme's colours"


def test_the_second_box_goes_on_when_the_typing_pauses(voices, monkeypatch):
    monkeypatch.setattr(text_box, "PAUSE", 0)
    monkeypatch.setattr("writing_box.TOKENS", 6)
    drawn = []

    async def settle():
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)

    async def type_in():
        box, shown = writing_box(voices, "You").children
        before = shown.value
        assert "You" in before
        shown.observe(lambda change: drawn.append(change["new"]), names="value")
        for typed in ("Y", "Yo", "I will"):
            box.value = typed
        await settle()
        assert all("I will" in page for page in drawn), "each key was answered"
        assert 1 < len(drawn) <= 6, "it is not written before the reader's eyes"
        box.value = "You"
        await settle()
        assert shown.value == before, "another text for the same seed"
        for nothing in ("", "  \n"):
            box.value = nothing
            await settle()
            assert shown.value == ""

    asyncio.run(type_in())
