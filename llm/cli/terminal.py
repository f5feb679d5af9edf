"""Messages from standard input, and what is printed of messages and metrics."""

import sys

from llm.utils.errors import InputError


def lines_of_standard_input() -> list[str]:
    """Messages, one a line. Raises InputError where there is none."""
    data = sys.stdin.buffer.read()
    texts = data.decode("utf-8", errors="replace").split("\n")  # no other line break counts
    texts = [text.removesuffix("\r") for text in texts if text.strip()]
    if not texts:
        raise InputError("no messages; give them as arguments, or one a line on standard input")
    return texts


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
