"""A full disk, for tests: the kernel refuses to let a file grow beyond a limit."""

import signal
from contextlib import contextmanager

import pytest


@contextmanager
def full_disk(limit: int):
    """No file that this process writes may grow beyond `limit` bytes."""
    resource = pytest.importorskip("resource")
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else it ends the process
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
