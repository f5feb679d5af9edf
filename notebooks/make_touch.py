"""The picture of the text box, images/touch.png, and the notebook whose cell shows it.

    python notebooks/make_touch.py               draws the picture
    python notebooks/make_touch.py --notebook    executes 06_touch_it.ipynb as well

A text box lives only while its notebook runs; in the notebook as it is kept the picture stands in
its place.
"""

import argparse
import base64
from collections.abc import Iterable
from pathlib import Path

import nbformat
from demonstration import AGAINST, FOR, OPENING, strengths
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from nbclient import NotebookClient

from llm.figures.style import DARK_GREY, save_figure
from llm.inference.adapters import Adapters
from llm.inference.explain import Explanation, explain
from llm.utils.files import write_text
from llm.utils.paths import BUNDLED

HERE = Path(__file__).parent
PICTURE = HERE / "images" / "touch.png"
NOTEBOOK = HERE / "06_touch_it.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"

WIDTH, LINE, SIZE = 700, 24, 11  # points: of the page, from line to line, of the letters
NAME, BAR, WORDS = 12, 90, 250  # where the columns begin
SPACE = 5  # between two words


def picture(message: str, answers: dict[str, Explanation]) -> Figure:
    """The box with a message in it, and the answers below, as `demonstration.page` has them."""
    figure = Figure(figsize=(WIDTH / 72, 1), dpi=72)
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")

    def width(text: str) -> float:
        probe = axes.text(0, 0, text, fontsize=SIZE)
        found = probe.get_window_extent(renderer).width
        probe.remove()
        return found

    def flow(texts: Iterable[str], left: float, top: float) -> list[tuple[float, float, float]]:
        """Where each text goes, lines broken at the page's edge: (x, y, width)."""
        places, x, y = [], left, top
        for text in texts:
            wide = width(text)
            if x + wide > WIDTH - 16 and x > left:
                x, y = left, y + LINE
            places.append((x, y, wide))
            x += wide + SPACE
        return places

    y = 26.0
    words = message.split()
    for word, (x, line, _) in zip(words, flow(words, 18, y)):
        axes.text(x, line, word, fontsize=SIZE, va="center")
        y = max(y, line)
    axes.add_patch(
        FancyBboxPatch(
            (10, 10), WIDTH - 20, y + 6, boxstyle="round,pad=0,rounding_size=3",
            facecolor="none", edgecolor=DARK_GREY,
        )
    )  # fmt: skip
    y += LINE
    for name, answer in answers.items():
        y += LINE
        axes.text(NAME, y, name, fontsize=SIZE, va="center", weight="bold")
        for share, colour in ((1.0, "#DDDDDD"), (answer.probability, _rgb(FOR))):
            axes.add_patch(Rectangle((BAR, y - 5), 140 * share, 10, color=colour))
        told = f"{answer.label} {100 * answer.probability:.1f} %"
        axes.text(BAR, y + 18, told, fontsize=SIZE, va="center")
        places = flow((part.text for part in answer.parts), WORDS, y)
        for part, strength, (x, line, wide) in zip(answer.parts, strengths(answer.parts), places):
            colour = _rgb(FOR if part.effect > 0 else AGAINST)
            box = (x - 2, line - 9), wide + 4, 18
            axes.add_patch(Rectangle(*box, color=colour, alpha=0.55 * strength, linewidth=0))
            if strength > 0.2:
                edge = line + 9 if part.effect > 0 else line - 9
                axes.plot([x - 2, x + wide + 2], [edge, edge], color=colour, linewidth=2)
            axes.text(x, line, part.text, fontsize=SIZE, va="center")
        y = max(places[-1][1], y + 18)
    axes.text(
        NAME,
        y + LINE + 4,
        "line below: the word speaks for it; line above: against it. The stronger the colour, the "
        "more the answer changes without the word",
        fontsize=SIZE - 2,
        va="center",
        color=DARK_GREY,
    )
    height = y + 2 * LINE
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    figure.set_size_inches(WIDTH / 72, height / 72)
    return figure


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(number) / 255 for number in colour.split(","))


def execute(notebook: nbformat.NotebookNode, picture: bytes) -> None:
    """Run it from top to bottom; the picture takes the place of the text box."""
    where = {"metadata": {"path": str(HERE)}}
    options = {"timeout": 600, "record_timing": False, "coalesce_streams": True}
    NotebookClient(notebook, resources=where, **options).execute()
    notebook.metadata["language_info"] = {"name": "python"}  # not the version of this machine
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if WIDGET in output.get("data", {}):
                told = "the text box is here once this cell has run; this is its picture"
                output.data = {
                    "image/png": base64.b64encode(picture).decode(),
                    "text/plain": told,
                }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--notebook", action="store_true", help="execute the notebook as well")
    options = parser.parse_args()
    figure = picture(OPENING, explain(Adapters.load(BUNDLED), OPENING))
    print(save_figure(figure, PICTURE))
    if options.notebook:
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        execute(notebook, PICTURE.read_bytes())
        write_text(NOTEBOOK, nbformat.writes(notebook) + "\n")
        print(NOTEBOOK)
