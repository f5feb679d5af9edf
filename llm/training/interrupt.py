"""Ctrl-C that waits for the end of the step, so that what was trained so far can be kept whole."""

import signal
import threading
from contextlib import contextmanager


class Interrupt:
    """Whether Ctrl-C was pressed."""

    requested = False


@contextmanager
def interrupt_after_step():
    """Inside the block, the first Ctrl-C only sets `requested`; a second one stops at once.

    Python lets the main thread alone handle signals; elsewhere Ctrl-C does what it always did.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = signal.getsignal(signal.SIGINT)

    def remember(signum, frame):
        interrupt.requested = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, remember)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
