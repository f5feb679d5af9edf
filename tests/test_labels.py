"""Names of points: measured on what is drawn."""

import random
from itertools import combinations

from llm.figures.labels import label_points
from llm.figures.style import new_figure, save_figure


def test_no_name_stands_over_another_or_off_the_axes(tmp_path):
    draw = random.Random(0)
    points = [(draw.gauss(0, 1), draw.gauss(0, 1)) for _ in range(15)]
    points += [(3 + draw.gauss(0, 0.1), draw.gauss(0, 0.1)) for _ in range(6)]  # a crowd at an edge
    names = [f"word {number}" for number in range(len(points))]
    figure, axes = new_figure(width=7, height=5)
    axes.plot(*zip(*points), "o", label="points")
    axes.legend(loc="lower left")
    label_points(axes, points, names, ["black"] * len(points))
    save_figure(figure, tmp_path / "labels.png")
    figure.set_dpi(100)
    renderer = figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer).padded(1)
    texts = [text for text in axes.texts if text.get_text() in names]
    assert sorted(text.get_text() for text in texts) == sorted(names)
    extents = [text.get_window_extent(renderer) for text in texts]
    others = [*extents, axes.get_legend().get_window_extent(renderer)]
    for one, other in combinations(others, 2):
        assert not one.padded(-1).overlaps(other.padded(-1))
    for one in extents:
        assert frame.x0 <= one.x0 and one.x1 <= frame.x1
        assert frame.y0 <= one.y0 and one.y1 <= frame.y1
