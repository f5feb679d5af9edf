"""Names beside the points of a figure, none over another, over a point, or off the axes."""

from collections.abc import Iterator, Sequence
from math import cos, hypot, pi, sin

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patheffects import withStroke

DIRECTIONS = (0, 180, 90, 270, 30, 330, 150, 210, 60, 300, 120, 240)  # degrees, the best first
DISTANCES = (6, 12, 20, 30, 42)  # points
LEADER = 6  # points: farther away a thin line leads from the name to its point

Spot = tuple[float, float]  # in pixels
Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels


def label_points(
    axes: Axes,
    points: Sequence[Spot],
    names: Sequence[str],
    colours: Sequence[str],
    size: float = 8,
    lines: Sequence[Sequence[Spot]] = (),
) -> list[Box]:
    """Write each name as near to its point as there is room; call it when all else is drawn.

    The names are placed one by one, the crowded ones first. (To find the best places for all
    together is NP-hard: Marks and Shieber 1991, "The Computational Complexity of Cartographic Label
    Placement".)

    Args:
        points: (x, y) in the axes' own units, a pair a name.
        lines: the corners of lines that the names keep off, as points.

    Returns:
        where each name stands, in pixels.
    """
    figure = axes.figure
    figure.draw_without_rendering()  # puts the axes where they stay
    figure.set_layout_engine("none")
    renderer = FigureCanvasAgg(figure).get_renderer()
    pixel = figure.dpi / 72  # of a point
    inside = axes.get_window_extent(renderer).extents.tolist()
    spots = [tuple(axes.transData.transform(point).tolist()) for point in points]
    dots = [_around(x, y, 7 * pixel, 7 * pixel) for x, y in spots]
    taken = _along(axes, lines, pixel)  # by lines, a legend, and names
    if axes.get_legend():
        taken.append(tuple(axes.get_legend().get_window_extent(renderer).extents.tolist()))
    boxes: dict[int, Box] = {}
    for index in sorted(range(len(spots)), key=lambda i: -_neighbours(spots, i, 60 * pixel)):
        text = axes.annotate(names[index], points[index], fontsize=size, color=colours[index])
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])  # over a line, too
        extent = text.get_window_extent(renderer)
        others = [*dots[:index], *dots[index + 1 :], *taken]
        best = None
        for distance, box in _places(spots[index], extent.width, extent.height, pixel):
            line = _line(spots[index], box, pixel) if distance > LEADER else []
            cost = sum(_over(some, others, inside) for some in [box, *line])
            cost += _over(box, [dots[index]], inside)
            if best is None or cost < best[0]:
                best = (cost, distance, box, line)
            if cost == 0:
                break  # nearer ones came before
        _, distance, boxes[index], line = best
        taken += [boxes[index], *line]
        text.set(ha="center", va="center", position=_centre(boxes[index], spots[index], pixel))
        text.anncoords = "offset points"
        if distance > LEADER:
            end = axes.transData.inverted().transform(_nearest(spots[index], boxes[index]))
            ends = [(a, b) for a, b in zip(points[index], end)]
            axes.plot(*ends, color=colours[index], linewidth=0.6, zorder=1)
    return [boxes[index] for index in range(len(spots))]


def _places(spot: Spot, width: float, height: float, pixel: float) -> Iterator[tuple[float, Box]]:
    """(distance in points, box) of all places tried, the nearest first."""
    for distance in DISTANCES:
        for degrees in DIRECTIONS:
            across, up = cos(pi * degrees / 180), sin(pi * degrees / 180)
            x = spot[0] + across * (width / 2 + distance * pixel)
            y = spot[1] + up * (height / 2 + distance * pixel)
            yield distance, _around(x, y, width + 2 * pixel, height)


def _line(spot: Spot, box: Box, pixel: float) -> list[Box]:
    """Small boxes along the way from a spot to a name."""
    end = _nearest(spot, box)
    ways = [[a + share * (b - a) for a, b in zip(spot, end)] for share in (0.3, 0.5, 0.7, 0.9)]
    return [_around(x, y, 3 * pixel, 3 * pixel) for x, y in ways]


def _along(axes: Axes, lines: Sequence[Sequence[Spot]], pixel: float) -> list[Box]:
    """Small boxes along lines that are given by their corners."""
    boxes = []
    for corners in lines:
        spots = axes.transData.transform(corners).tolist()
        for (x, y), (right, top) in zip(spots, spots[1:]):
            steps = max(2, int(hypot(right - x, top - y) / (4 * pixel)))
            for step in range(1, steps):
                share = step / steps
                at = x + share * (right - x), y + share * (top - y)
                boxes.append(_around(*at, 2 * pixel, 2 * pixel))
    return boxes


def _around(x: float, y: float, width: float, height: float) -> Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _shared(one: Box, other: Box) -> float:
    """Pixels, squared, of both."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _over(box: Box, others: list[Box], inside: Box) -> float:
    """Pixels, squared, that lie over something else or off the axes."""
    own = _shared(box, box)
    off = own - _shared(box, inside)
    return sum(_shared(box, other) for other in others) + (off if off > 1e-6 * own else 0.0)


def _neighbours(spots: list[Spot], index: int, reach: float) -> int:
    x, y = spots[index]
    return sum(abs(x - a) < reach and abs(y - b) < reach for a, b in spots)


def _nearest(spot: Spot, box: Box) -> Spot:
    """The place of a box that is nearest to a spot."""
    return min(max(spot[0], box[0]), box[2]), min(max(spot[1], box[1]), box[3])


def _centre(box: Box, spot: Spot, pixel: float) -> Spot:
    """Of a box, in points from a spot."""
    return (
        ((box[0] + box[2]) / 2 - spot[0]) / pixel,
        ((box[1] + box[3]) / 2 - spot[1]) / pixel,
    )
