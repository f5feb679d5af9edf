"""The figure of models that write: how much each way learns, and how much it forgets."""

from pathlib import Path

from matplotlib.figure import Figure

from llm.figures.style import COLOURS, DARK_GREY, GREY, INK, NAMES, new_figure, save_figure

LINES = {"kneser_ney": ("Kneser-Ney, bytes", "--"), "xz": ("xz -9", ":"), "base": ("base", "-.")}


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
        f"{'/'.join(map(str, sorted(runs)))} run(s) each",
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
            label=NAMES[method],
        )
        for way in ways:
            place = (way["trainable_parameters"], way["test_bits_per_byte_mean"])
            _mark(axes, way, place)
    axes.set(
        xscale="log",
        xlabel="trained numbers",
        ylabel="bits a byte of unseen texts (less is better)",
        title="What is learned",
    )
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.9), fontsize=9)


def draw_forgetting(axes, results: dict) -> None:
    """What was saved on unseen texts of the voice, against what was lost on English."""
    axes.axhline(0, color=GREY, linewidth=1)
    axes.plot(0, 0, "x", color=INK, markersize=8)
    axes.annotate("base", (0, 0), (6, 5), textcoords="offset points", fontsize=9, color=INK)
    for method, ways in _by_method(results).items():
        axes.errorbar(
            [way["learned_mean"] for way in ways],
            [way["forgotten_english_mean"] for way in ways],
            [way["forgotten_english_std"] or 0 for way in ways],
            [way["learned_std"] or 0 for way in ways],
            fmt="o-",
            color=COLOURS[method],
            capsize=3,
            label=NAMES[method],
        )
        for way in ways:
            _mark(axes, way, (way["learned_mean"], way["forgotten_english_mean"]))
    axes.set(
        xlabel="learned: bits a byte saved on unseen texts",
        ylabel="forgotten: bits a byte lost on English",
        title="Learned against forgotten",
    )
    axes.margins(0.12)


def _by_method(results: dict) -> dict[str, list[dict]]:
    """The summaries, LoRA's by rank."""
    found: dict[str, list[dict]] = {}
    for way in results["summary"].values():
        found.setdefault(way["method"], []).append(way)
    return {
        method: sorted(ways, key=lambda way: way["rank"] or 0) for method, ways in found.items()
    }


def _mark(axes, way: dict, place: tuple[float, float]) -> None:
    """LoRA's rank, or the method's name, beside its point."""
    text = str(way["rank"]) if way["rank"] else NAMES[way["method"]]
    axes.annotate(text, place, (6, 5), textcoords="offset points", fontsize=8, color=INK)
