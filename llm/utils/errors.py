"""Mistakes in what the reader gave, a file, an option, a folder: one exception, one line."""

from collections.abc import Sequence


class InputError(ValueError):
    """Bad input. The message says what is wrong, where, and how to mend it, in one line.

    The command line prints it after `error:` and ends with status 2; in a notebook it is the
    last line of the traceback. Everything else that is raised is a bug of this project.

    The message names no option of the command line, since it is read in notebooks too. The command
    line appends what it knows by these (`llm.utils.program.run`):

    Args:
        settings: the settings to change, ("lr",), with a value where one is meant:
            ("lr", "precision=fp32") is shown as (--lr, --precision fp32).
        command: the command that helps, "download gpt2".
    """

    def __init__(self, message: object, settings: Sequence[str] = (), command: str | None = None):
        self.settings, self.command = tuple(settings), command
        text = " ".join(str(message).split())
        if len(text) > 1000:  # a damaged file may hold anything; what and how to mend stay
            text = f"{text[:600]} … {text[-300:]}"
        # What would steer a terminal, or cannot be written as UTF-8, is shown as \x1b and \ud800.
        shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        super().__init__("".join(shown))


class NotFinite(InputError):
    """A training that has run away: a loss or an answer that is no finite number."""


def reason(error: Exception) -> str:
    """Why the system refused, as part of a sentence: `no space left on device`."""
    return str(getattr(error, "strerror", None) or error).lower()
