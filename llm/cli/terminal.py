"""Messages from standard input, and what is printed of messages and metrics; remarks beside."""

import json
import sys
from collections.abc import Iterable, Iterator
from textwrap import indent

from llm.utils.errors import InputError


def lines_of_standard_input() -> Iterator[str]:
    """Messages, one a line, as they come. Raises InputError where there is none."""
    empty = True
    for line in sys.stdin.buffer:  # no other line break counts
        text = line.decode("utf-8", errors="replace").removesuffix("\n").removesuffix("\r")
        if text.strip():
            empty = False
            yield text
    if empty:
        raise InputError("no messages; give them as arguments, or one a line on standard input")


def print_json_list(items: Iterable[dict]) -> None:
    """What `json.dumps(list(items), indent=2)` gives, without holding more than one of them."""
    before = "["
    for item in items:
        print(before, indent(json.dumps(item, indent=2), "  "), sep="\n", end="")
        before = ","
    print("\n]" if before == "," else "[]")


def metrics_line(metrics: dict) -> str:
    """The metrics of a classifier in one line."""
    shown = [f"{metrics['messages']} messages"] if "messages" in metrics else []
    for name in ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "roc_auc"):
        if metrics[name] is not None:
            shown.append(f"{name.replace('_', ' ')} {metrics[name]:.4f}")
    return ", ".join(shown)


def bits_line(metrics: dict) -> str:
    """How well a model predicts documents, in one line."""
    spread = metrics["bits_per_byte_std"]
    return (
        f"{metrics['documents']} documents, {metrics['bytes']:,} bytes: "
        f"{metrics['bits_per_byte']:.4f} bits per byte; "
        f"a document {metrics['bits_per_byte_mean']:.4f}"
        + ("" if spread is None else f" ± {spread:.4f}")
    )


def one_line(text: str) -> str:
    """With spaces for line breaks, and for what would steer the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def remark(options, text: str) -> None:
    """What is no result goes to standard error, and not at all with `--quiet`."""
    if not options.quiet:
        print(text, file=sys.stderr)
