"""What every program here has in common: its options, and one line in place of a traceback."""

import argparse
import sys
from collections.abc import Callable

from llm.utils.errors import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line that begins with `error:`."""

    def error(self, message: str):
        """Print it and end with status 2."""
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


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


def run(action: Callable[[], None], interrupted: str = "interrupted") -> int:
    """Run a program's work.

    Args:
        action: the work.
        interrupted: what to say after Ctrl-C.

    Returns:
        the exit status: 0 done, 2 bad input (one line on stderr), 130 interrupted.
    """
    for stream in (sys.stdout, sys.stderr):  # not every terminal can print every message
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        action()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        print(f"error: {InputError(error)}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        full = any(words in str(error) for words in ("allocate memory", "out of memory"))
        if not isinstance(error, MemoryError) and not full:
            raise
        print("error: not enough memory; try a smaller batch or model", file=sys.stderr)
        return 2
    return 0
