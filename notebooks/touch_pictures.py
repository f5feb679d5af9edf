"""Pictures of the two text boxes, which live only while their notebook runs.

Drawn with the same answers, colours and words as `demonstration` and `writing_box` show.
"""

from collections.abc import Iterable

from demonstration import AGAINST, FOR, strengths
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from writing_box import NEW, TOLD, ending

from llm.figures.style import DARK_GREY
from llm.inference.explain import Explanation
from llm.inference.voices import Continuation

WIDTH, LINE, SIZE = 700, 24, 11  # points: of the page, from line to line, of the letters
NAME, BAR, WORDS, TEXT = 12, 90, 250, 110  # where the columns begin
SPACE = 5  # between two words
KEY = (
    "line below: the word speaks for it; line above: against it. The stronger the colour, the "
    "more the answer changes without the word"
)


class Sheet:
    """A page that grows downwards: a box with a text in it, then what is put below."""

    def __init__(self, typed: str):
        self.figure = Figure(figsize=(WIDTH / 72, 1), dpi=72)
        self._renderer = FigureCanvasAgg(self.figure).get_renderer()
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.axis("off")
        y = 26.0
        words = typed.split()
        for word, (x, line, _) in zip(words, self.flow(words, 18, y)):
            self.write(x, line, word)
            y = max(y, line)
        self.axes.add_patch(
            FancyBboxPatch(
                (10, 10), WIDTH - 20, y + 6, boxstyle="round,pad=0,rounding_size=3",
                facecolor="none", edgecolor=DARK_GREY,
            )
        )  # fmt: skip
        self.y = y + LINE

    def write(self, x: float, y: float, text: str, **style) -> None:
        """A text whose left end and middle are given."""
        self.axes.text(x, y, text, **{"fontsize": SIZE, "va": "center", **style})

    def mark(self, x: float, y: float, wide: float, colour: str, alpha: float) -> None:
        """Colour behind a word."""
        box = Rectangle((x - 2, y - 9), wide + 4, 18, color=_rgb(colour), alpha=alpha, linewidth=0)
        self.axes.add_patch(box)

    def flow(
        self, texts: Iterable[str], left: float, top: float
    ) -> list[tuple[float, float, float]]:
        """Where each text goes, lines broken at the page's edge: (x, y, width)."""
        places, x, y = [], left, top
        for text in texts:
            wide = self._width(text)
            if x + wide > WIDTH - 16 and x > left:
                x, y = left, y + LINE
            places.append((x, y, wide))
            x += wide + SPACE
        return places

    def finish(self, key: str) -> Figure:
        """The figure, with a line below that says what its colours mean."""
        self.write(NAME, self.y + LINE + 4, key, fontsize=SIZE - 2, color=DARK_GREY)
        height = self.y + 2 * LINE
        self.axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        self.figure.set_size_inches(WIDTH / 72, height / 72)
        return self.figure

    def _width(self, text: str) -> float:
        probe = self.axes.text(0, 0, text, fontsize=SIZE)
        found = probe.get_window_extent(self._renderer).width
        probe.remove()
        return found


def reading_picture(message: str, answers: dict[str, Explanation]) -> Figure:
    """The box with a message in it, and the answers below, as `demonstration.page` has them."""
    sheet = Sheet(message)
    for name, answer in answers.items():
        sheet.y += LINE
        y = sheet.y
        sheet.write(NAME, y, name, weight="bold")
        for share, colour in ((1.0, "#DDDDDD"), (answer.probability, _rgb(FOR))):
            sheet.axes.add_patch(Rectangle((BAR, y - 5), 140 * share, 10, color=colour))
        sheet.write(BAR, y + 18, f"{answer.label} {100 * answer.probability:.1f} %")
        places = sheet.flow((part.text for part in answer.parts), WORDS, y)
        for part, strength, (x, line, wide) in zip(answer.parts, strengths(answer.parts), places):
            colour = FOR if part.effect > 0 else AGAINST
            sheet.mark(x, line, wide, colour, 0.55 * strength)
            if strength > 0.2:
                edge = line + 9 if part.effect > 0 else line - 9
                ends = [x - 2, x + wide + 2]
                sheet.axes.plot(ends, [edge, edge], color=_rgb(colour), linewidth=2)
            sheet.write(x, line, part.text)
        sheet.y = max(places[-1][1], y + 18)
    return sheet.finish(KEY)


def writing_picture(beginning: str, texts: dict[str, Continuation]) -> Figure:
    """The box with a beginning in it, and how each goes on, as `writing_box.written_page` has."""
    sheet = Sheet(beginning)
    for name, one in texts.items():
        sheet.y += LINE
        sheet.write(NAME, sheet.y, name, weight="bold")
        old = beginning.split()
        words = [*old, *one.text.split(), ending(one)]
        places = sheet.flow(words, TEXT, sheet.y)
        for number, (word, (x, line, wide)) in enumerate(zip(words, places)):
            new = len(old) <= number < len(words) - 1
            if new:
                sheet.mark(x, line, wide, NEW, 0.3)
            sheet.write(x, line, word, color=DARK_GREY if number == len(words) - 1 else "black")
        sheet.y = places[-1][1]
    return sheet.finish(TOLD)


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(number) / 255 for number in colour.split(","))
