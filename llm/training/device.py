"""Where to compute: picking the device, seeding, and how much memory a process has used."""

import ctypes
import sys
from contextlib import nullcontext

import torch

from llm.training.settings import DEVICES, PRECISIONS
from llm.utils.errors import InputError


def pick_device(name: str = "auto") -> str:
    """`auto` takes a CUDA GPU, else Apple's, else the CPU. Raises InputError if it is absent.

    Of several GPUs "cuda:2" makes the third this process' own: the answer is "cuda" then, which
    means that one from here on.
    """
    present = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if name == "auto":
        return next(device for device, is_present in present.items() if is_present())
    name, _, number = name.partition(":")
    if name not in present or (number and (name != "cuda" or not number.isdecimal())):
        asked = f"{name}:{number}" if number else name
        raise InputError(f"unknown device {asked!r}; choose from {', '.join(DEVICES)}")
    if not present[name]():
        raise InputError(
            f"PyTorch finds no {name} device on this machine; try the CPU",
            settings=("device=cpu",),
        )
    if number:
        if int(number) >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise InputError(f"there is no GPU {number}; this machine's are 0 to {count - 1}")
        torch.cuda.set_device(int(number))
    return name


def autocast(device: str, precision: str):
    """Matrix products in bfloat16 with `bf16`; everything in float32 with `fp32`."""
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device, torch.bfloat16)


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory for the next tensor. True where that is possible.

    By default glibc returns a large tensor's memory to the system when it is freed, and the system
    hands it out again page by page, each page cleared: at the sizes of a small model a noticeable
    part of a training step, and on some virtual machines most of it. glibc also keeps a pool for
    every thread; the backward pass has a thread of its own, and what one pool has freed the other
    cannot use. One pool for all lowers the peak too.

    Call it before the first tensor is made.
    """
    if not sys.platform.startswith("linux"):
        return False
    trim_threshold, mmap_threshold, most_pools = -1, -3, -8  # glibc's numbers for its settings
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    wanted = {mmap_threshold: 1 << 30, trim_threshold: 1 << 30, most_pools: 1}
    return all(mallopt(setting, value) for setting, value in wanted.items())


def peak_memory_bytes(device: str = "cpu") -> int:
    """The most memory in use so far: the CUDA allocator's peak, or the process's resident peak."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    if sys.platform.startswith("linux"):
        # Not getrusage's ru_maxrss: a process is born with the peak of the one that started it.
        with open("/proc/self/status") as status:
            return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
