"""The figure of models that write: how much each way learns, and how much it forgets."""

from pathlib import Path

from matplotlib.figure import Figure

from llm.figures.style import COLOURS, DARK_GREY, INK, NAMES, new_figure, save_figure

LINES = {"kneser_ney": ("Kneser-Ney, bytes", "--"), "xz": ("xz -9", ":"), "base": ("base", "-.")}
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8}  # a name on a line


def voice_figures(results: dict, out: str | Path) -> Path:
    """Draw the figure beside a results.json of `llm.studies.voices`. Returns its path."""
    return save_figure(voice_figure(results), Path(out) / "voices.png")


def voice_figure(results: dict) -> Figure:
    """Left: unseen texts against trained numbers. Right: learned against forgotten."""
    figure, (left, right) = new_figure(1, 2, width=10.5, height=4.3)
    draw_learning(left, results)
    draw_forgetting(right, results)
    runs = {summary["runs"] for summary in results["summary"].values()}
    figure.suptitle(
        f"{results['model']}, voice: {', '.join(results['data']['text'])}; "
        f"{'/'.join(map(str, sorted(runs)))} runs each",
        fontsize=9,
    )
    return figure


def draw_learning(axes, results: dict) -> None:
    """Bits a byte of unseen texts of the voice, against how many numbers were trained."""
    for name, (label, style) in LINES.items():
        height = results["baselines"][name]["test"]["bits_per_byte"]
        axes.axhline(height, color=DARK_GREY, linestyle=style, linewidth=1)
        axes.annotate(label, (0.99, height), (0, 3), fontsize=8, color=INK, ha="right",
                      xycoords=("axes fraction", "data"), textcoords="offset points")  # fmt: skip
    for method, ways in _by_method(results).items():
        axes.errorbar(
            [way["trainable_parameters"] for way in ways],
            [way["test_bits_per_byte_mean"] for way in ways],
            [way["test_bits_per_byte_std"] or 0 for way in ways],
            fmt="o-",
            color=COLOURS[method],
            capsize=3,
        )
        for number, way in enumerate(ways):
            place = (way["trainable_parameters"], way["test_bits_per_byte_mean"])
            if number:  # the ranks stand close together: LoRA is named once
                below = {"xytext": (0, -15), "textcoords": "offset points", "ha": "center"}
                look = {"fontsize": 8, "color": INK, "bbox": BEHIND}
                axes.annotate(str(way["rank"]), place, **below, **look)
            else:
                _mark(axes, way, place, (-16, -15) if way["rank"] else (8, -3))
    axes.set(
        xscale="log",
        xlabel="trained numbers",
        ylabel="bits a byte of unseen texts (less is better)",
        title="What is learned",
    )
    axes.margins(x=0.12, y=0.1)


def draw_forgetting(axes, results: dict) -> None:
    """What was saved on unseen texts of the voice, against what was lost on English.

    The base would stand at (0, 0), far to the left.
    """
    for method, ways in _by_method(results).items():
        axes.errorbar(
            [way["learned_mean"] for way in ways],
            [way["forgotten_english_mean"] for way in ways],
            [way["forgotten_english_std"] or 0 for way in ways],
            [way["learned_std"] or 0 for way in ways],
            fmt="o",
            color=COLOURS[method],
            capsize=3,
        )
        for way in ways:
            _mark(axes, way, (way["learned_mean"], way["forgotten_english_mean"]), (4, 5))
    axes.set(
        xlabel="learned: bits a byte saved on unseen texts",
        ylabel="forgotten: bits a byte lost on English",
        title="Learned against forgotten",
    )
    axes.margins(0.15)
    axes.set_ylim(bottom=0)


def _by_method(results: dict) -> dict[str, list[dict]]:
    """The summaries, LoRA's by rank."""
    found: dict[str, list[dict]] = {}
    for way in results["summary"].values():
        found.setdefault(way["method"], []).append(way)
    return {
        method: sorted(ways, key=lambda way: way["rank"] or 0) for method, ways in found.items()
    }


def _mark(axes, way: dict, place: tuple[float, float], offset: tuple[float, float]) -> None:
    """The method's name beside its point, and LoRA's rank."""
    text = f"LoRA {way['rank']}" if way["rank"] else NAMES[way["method"]]
    axes.annotate(
        text, place, offset, textcoords="offset points", fontsize=8, color=INK, bbox=BEHIND
    )
