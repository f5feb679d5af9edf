"""The pictures of the two text boxes, and the notebook whose cells show them.

    python notebooks/make_touch.py               draws images/touch.png and images/touch_write.png
    python notebooks/make_touch.py --notebook    executes 06_touch_it.ipynb as well

A text box lives only while its notebook runs; in the notebook as it is kept a picture stands in
its place.
"""

import argparse
import base64
from collections.abc import Sequence
from pathlib import Path

import nbformat
from demonstration import OPENING
from matplotlib.figure import Figure
from nbclient import NotebookClient
from touch_pictures import reading_picture, writing_picture
from writing_box import BEGINNING, written

from llm.figures.style import save_figure
from llm.inference.adapters import Adapters
from llm.inference.explain import explain
from llm.utils.files import write_text
from llm.utils.paths import BUNDLED, VOICES

HERE = Path(__file__).parent
READING, WRITING = HERE / "images" / "touch.png", HERE / "images" / "touch_write.png"
NOTEBOOK = HERE / "06_touch_it.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"


def draw_reading() -> Figure:
    """The first box: a message, and the words that moved the answers."""
    return reading_picture(OPENING, explain(Adapters.load(BUNDLED), OPENING))


def draw_writing() -> Figure:
    """The second box: a beginning, and how the base and the voices go on."""
    voices = Adapters.load({f"{name} voice": folder for name, folder in VOICES.items()})
    *_, texts = written(voices, BEGINNING)
    return writing_picture(BEGINNING, texts)


PICTURES = {READING: draw_reading, WRITING: draw_writing}  # in the order of the boxes


def execute(notebook: nbformat.NotebookNode, pictures: Sequence[bytes]) -> None:
    """Run it from top to bottom; the pictures take the places of the text boxes, in turn."""
    where = {"metadata": {"path": str(HERE)}}
    options = {"timeout": 600, "record_timing": False, "coalesce_streams": True}
    NotebookClient(notebook, resources=where, **options).execute()
    notebook.metadata["language_info"] = {"name": "python"}  # not the version of this machine
    notebook.metadata.pop("widgets", None)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    boxes = [output for output in outputs if WIDGET in output.get("data", {})]
    for box, picture in zip(boxes, pictures, strict=True):
        box.data = {
            "image/png": base64.b64encode(picture).decode(),
            "text/plain": "the text box is here once this cell has run; this is its picture",
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--notebook", action="store_true", help="execute the notebook as well")
    options = parser.parse_args()
    for path, drawn in PICTURES.items():
        print(save_figure(drawn(), path))
    if options.notebook:
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        execute(notebook, [path.read_bytes() for path in PICTURES])
        write_text(NOTEBOOK, nbformat.writes(notebook) + "\n")
        print(NOTEBOOK)
