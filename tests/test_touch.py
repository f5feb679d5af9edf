"""The sixth notebook shows the picture of its text box, and the picture shows what is so."""

import base64
import json
from pathlib import Path

import pytest
from demonstration import OPENING
from make_touch import NOTEBOOK, PICTURE, WIDGET, picture
from matplotlib.testing.compare import compare_images

from llm.figures.style import save_figure
from llm.inference.adapters import Adapters
from llm.inference.explain import explain
from llm.utils.paths import BUNDLED

COMMAND = "python notebooks/make_touch.py --notebook"
STORIES = sorted((Path(__file__).parents[1] / "notebooks").glob("0[1-5]_*.ipynb"))


def test_the_picture_is_what_the_code_gives(tmp_path):
    drawn = save_figure(
        picture(OPENING, explain(Adapters.load(BUNDLED), OPENING)), tmp_path / "touch.png"
    )
    differs = compare_images(str(PICTURE), str(drawn), tol=3)  # another machine's fonts and sums
    assert differs is None, f"{COMMAND}\n{differs}"


def test_the_notebook_shows_the_picture_and_no_box():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert not any(WIDGET in output.get("data", {}) for output in outputs), COMMAND
    shown = outputs[-1]["data"]["image/png"]
    assert base64.b64decode("".join(shown)) == PICTURE.read_bytes(), COMMAND


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_every_story_leads_to_the_box(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert f"({NOTEBOOK.name})" in text
