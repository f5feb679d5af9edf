"""What every program here has in common: its options, and one line in place of a traceback."""

import argparse
import sys
from collections.abc import Callable
from contextlib import contextmanager

from llm.utils.errors import InputError


class DefaultsInHelp(argparse.HelpFormatter):
    """Ends an option's help with its default, or with "required", unless that is said already."""

    def _get_help_string(self, action):
        said = "default: " in action.help or action.default == argparse.SUPPRESS
        if said or not action.option_strings:
            return action.help
        if action.required:
            return action.help + " (required)"
        if action.nargs == 0:  # a switch, which may stand for a setting that is on without it
            return action.help + " (default: off)"
        return action.help + ("" if action.default is None else " (default: %(default)s)")


class DescribedAsWritten(DefaultsInHelp, argparse.RawDescriptionHelpFormatter):
    """The same, and the description keeps its lines: for a program described by its docstring."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line that begins with `error:`."""

    def __init__(self, *, formatter_class=DefaultsInHelp, **others):
        super().__init__(formatter_class=formatter_class, **others)

    def error(self, message: str):
        """Print it and end with status 2."""
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)

    def flags(self) -> dict[str, str]:
        """Every setting that is an option here, and how it is typed: {"lr": "--lr", ...}."""
        named = (action for action in self._actions if action.option_strings)
        return {action.dest: action.option_strings[0] for action in named}


def whole(text: str) -> int:
    """A whole number from 0 that fits into 32 bits, as seeds have to."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError("must be from 0 to 4294967295")
    return value


def positive(text: str) -> int:
    """A whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def run(
    action: Callable[[], None], interrupted: str = "interrupted", parser: Parser | None = None
) -> int:
    """Run a program's work.

    Args:
        action: the work.
        interrupted: what to say after Ctrl-C.
        parser: of the program's options, so that an error can name those that would mend it.

    Returns:
        the exit status: 0 done, 2 bad input (one line on stderr), 130 interrupted.
    """
    for stream in (sys.stdout, sys.stderr):  # not every terminal can print every message
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        with refusals():
            action()
    except InputError as error:
        print(f"error: {error}{remedy(error, parser)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        sys.stderr.close()
    return 0


@contextmanager
def refusals():
    """Inside the block, what the machine refuses (a name, a file, memory) is an InputError."""
    try:
        yield
    except (InputError, BrokenPipeError):
        raise
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise InputError(error) from None
    except (MemoryError, RuntimeError) as error:
        full = any(words in str(error) for words in ("allocate memory", "out of memory"))
        if not isinstance(error, MemoryError) and not full:
            raise
        raise InputError(
            "not enough memory; try a smaller batch or model", settings=("batch_size", "model")
        ) from None


def remedy(error: InputError, parser: Parser | None) -> str:
    """What to type to mend an error, " (--lr, --precision fp32)"; "" where there is nothing."""
    flags = parser.flags() if parser else {}
    typed = [f"python -m llm {error.command}"] if error.command else []
    for setting in error.settings:
        name, _, value = setting.partition("=")
        if name in flags:
            typed.append(f"{flags[name]} {value}".strip())
    return f" ({', '.join(typed)})" if typed else ""
