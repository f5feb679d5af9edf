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


def one_line(text: str) -> str:
    """With spaces for line breaks, and for what would steer the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
