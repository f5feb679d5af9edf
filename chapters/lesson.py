"""What every chapter needs and none is about: options, headings, tables, one line for a mistake."""

import argparse
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch

from llm.figures.style import save_figure
from llm.utils.files import make_folder
from llm.utils.program import DescribedAsWritten, Parser, run, whole

WIDTH = 88  # columns of the printed text


def lesson(teach: Callable, text: str, add_options: Callable | None = None) -> None:
    """Run a chapter as a program; never returns.

    Args:
        teach: takes the options and prints the lesson.
        text: the chapter's docstring, its title in the first line; `--help` shows it.
        add_options: takes the parser and adds the chapter's own options to --out and --seed.

    Ends the program with status 0, 2 (bad input, one line on stderr) or 130 (interrupted).
    """
    parser = Parser(description=text, formatter_class=DescribedAsWritten)
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for figures")
    parser.add_argument("--seed", type=whole, default=0, help="same seed, same numbers")
    if add_options:
        add_options(parser)
    options = parser.parse_args()

    def chapter() -> None:
        if hasattr(sys.stdout, "reconfigure"):  # each line at once, into a file or a pipe, too
            sys.stdout.reconfigure(line_buffering=True)
        make_folder(options.out)  # complain about it before the work, not after
        torch.manual_seed(options.seed)
        print(text.strip().splitlines()[0] + "\n")
        teach(options)

    raise SystemExit(run(chapter, parser=parser))


def weights_option(parser: argparse.ArgumentParser) -> None:
    """Add `--weights`, for chapters that start from the mini base."""
    parser.add_argument(
        "--weights",
        choices=("pretrained", "random"),
        default="pretrained",
        help="of the mini base: as this project pretrained them, or as they are before that",
    )


# Each of these prints a piece of the lesson and an empty line after it.


def section(title: str) -> None:
    """Print a heading."""
    print(f"{title}\n{'-' * len(title)}")


def say(text: str) -> None:
    """Print a paragraph, wrapped."""
    print(textwrap.fill(" ".join(text.split()), WIDTH) + "\n")


def patience(work: str, seconds: float) -> None:
    """Say what takes a while now, and about how long on two idle cores; a busy machine is slower.

    What trains shows a bar on a terminal besides.
    """
    print(f"... {work}: about {max(1, round(seconds))} s on two idle cores\n")


def listing(*lines: str) -> None:
    """Print lines as they are, indented."""
    print("\n".join(("  " + line).rstrip() for line in lines) + "\n")


def show(header: Sequence[str], rows: Sequence[Sequence]) -> None:
    """Print a table: words to the left, numbers to the right (1,234 and four digits of a float)."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [all(text.lstrip("-+")[:1].isdigit() for text in column) for column in zip(*cells)]
    widths = [max(map(len, column)) for column in zip(header, *cells)]
    for line in (list(header), ["-" * width for width in widths], *cells):
        aligned = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric)
        ]
        print("  " + "  ".join(aligned).rstrip())
    print()


def save(figure, folder: Path, name: str) -> None:
    """Write a chapter's figure and say where it is."""
    print(f"figure: {save_figure(figure, folder / name)}\n")


def try_next(*changes: str) -> None:
    """End the lesson with what to change, and what to expect then."""
    print("Try next:")
    for change in changes:
        lines = textwrap.wrap(" ".join(change.split()), WIDTH - 2)
        print("\n".join(("- " if not i else "  ") + line for i, line in enumerate(lines)))


def _cell(value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
