"""Running the command line in a process that stops dead at a chosen moment, for test_kill.

The moment is counted in what the process does to its folder. Python reports each opening,
renaming, deleting and creating of a file before it happens (an audit event, PEP 578), so "at the
n-th" hits every state that a folder can be found in, and hits it again next time. A kill by the
clock would spend most of its time on importing PyTorch and almost never fall between two writes.
"""

import contextlib
import io
import os
import resource
import signal
import sys
from dataclasses import dataclass

import psutil
from forked import server

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "tempfile.mkstemp"}


@dataclass
class Ended:
    """How a run ended: `status` as subprocess has it, -9 when it was killed."""

    status: int
    events: int
    stdout: str
    stderr: str


def run(arguments, folder, at=None, sign=signal.SIGKILL, limit=None, memory=None) -> Ended:
    """Run `python -m llm ARGUMENTS` in a child to its end, or to a moment.

    at: the number of the touch of `folder` before which it is sent the signal `sign`; or a name:
        the first touch at which there is a file of that name.
    limit: bytes a file may have; the kernel then refuses writes, as on a full disk.
    memory: bytes it may take on top of what it has at the start.
    """
    process, ours = start(arguments, folder, at, sign, limit, memory)
    return wait(process, ours)


def start(arguments, folder, at=None, sign=signal.SIGKILL, limit=None, memory=None):
    """Start it. Returns the process and the end of a pipe for `wait`."""
    ours, theirs = server.Pipe(duplex=False)
    arguments = [str(argument) for argument in arguments]
    process = server.Process(
        target=_child, args=(arguments, str(folder), at, sign, limit, memory, theirs)
    )
    process.start()
    theirs.close()
    return process, ours


def wait(process, ours) -> Ended:
    """Wait for its end."""
    try:
        events, stdout, stderr = ours.recv()
    except EOFError:  # killed before it could say anything
        events, stdout, stderr = 0, "", ""
    process.join()
    return Ended(process.exitcode, events, stdout, stderr)


def _child(arguments, folder, at, sign, limit, memory, pipe):
    import torch

    from llm.cli.parser import main

    torch.set_num_threads(1)
    count = 0

    def hook(event, details):
        nonlocal count
        if event in EVENTS and details and str(details[0]).startswith(folder):
            count += 1
            if count == at or (isinstance(at, str) and os.path.exists(os.path.join(folder, at))):
                os.kill(os.getpid(), sign)

    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if memory:
        most = psutil.Process().memory_info().vms + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    sys.addaudithook(hook)
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        status = main(arguments)
    pipe.send((count, stdout.getvalue(), stderr.getvalue()))
    pipe.close()
    os._exit(status)
