"""One style for every figure, with colours that colour-blind readers tell apart."""

from pathlib import Path

from matplotlib import rcParams
from matplotlib.figure import Figure

from llm.utils.files import whole_file

# Okabe and Ito 2008, "Color Universal Design".
BLUE, ORANGE, GREEN, SKY = "#0072B2", "#E69F00", "#009E73", "#56B4E9"
RED, PINK, YELLOW = "#D55E00", "#CC79A7", "#F0E442"
GREY, DARK_GREY, INK = "#999999", "#7A7A7A", "#444444"

COLOURS = {
    "full": RED,
    "last_block": ORANGE,
    "head": SKY,
    "lora": GREEN,
    "dora": BLUE,
    "qlora": PINK,
    "baseline": DARK_GREY,
}
KINDS = {  # of memory, from the bottom of a stack to its top
    "weights": GREY,
    "gradients": PINK,
    "optimizer": BLUE,
    "activations": YELLOW,
}
NAMES = {
    "full": "full",
    "last_block": "last block",
    "head": "head",
    "lora": "LoRA",
    "dora": "DoRA",
    "qlora": "QLoRA",
    "majority": "always the majority",
    "tfidf_logistic_regression": "TF-IDF, words",
    "tfidf_logistic_regression_characters": "TF-IDF, characters too",
}
LONG_NAMES = {  # of the baselines, where there is room
    "majority": "always ham",
    "tfidf_logistic_regression": "TF-IDF of words, logistic regression",
    "tfidf_logistic_regression_characters": "TF-IDF of words and characters",
}
rcParams |= {  # for all figures that are drawn after this import
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "legend.frameon": False,
    "savefig.dpi": 130,
    "figure.dpi": 100,
}


def new_figure(rows: int = 1, columns: int = 1, width: float = 8.0, height: float = 3.6):
    """An empty figure in the project's style: (figure, axes)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns)


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a PNG or SVG, whole or not at all."""
    path = Path(path)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata={})
    return path


def smooth(values: list[float], share: float = 0.9) -> list[float]:
    """Exponential running mean, corrected at the start."""
    smoothed, mean, weight = [], 0.0, 0.0
    for value in values:
        mean = share * mean + (1 - share) * value
        weight = share * weight + (1 - share)
        smoothed.append(mean / weight)
    return smoothed
