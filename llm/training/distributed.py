"""Several processes on one batch (`torchrun --nproc-per-node N -m llm …`); one process is a team
of its own, for which every function here does nothing."""

import os
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn


@contextmanager
def team():
    """Join the other processes that torchrun started, for the time of the block."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    use_gpus = torch.cuda.is_available()
    if use_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if use_gpus else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


_part: dist.ProcessGroup | None = None  # those that work together now; None: the whole team


@contextmanager
def part_of_team(size: int):
    """Let the first `size` processes work together for the time of the block, and the rest wait.

    Every process of the team has to come here.

    Yields:
        whether this process is one of the first `size`.
    """
    global _part
    if not dist.is_initialized():
        yield True
        return
    group = dist.new_group(range(size))
    taking_part = dist.get_rank() < size
    _part = group if taking_part else None
    try:
        yield taking_part
    finally:
        _part = None
        if taking_part:
            dist.destroy_process_group(group)


def world_size() -> int:
    """How many processes work together."""
    return dist.get_world_size(_part) if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0: before and after the team's work, too."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this is the process, of rank 0, that writes files and prints."""
    return rank() == 0


def sum_gradients(parameters: list[nn.Parameter]) -> int:
    """Add up every parameter's gradient over the processes, in one exchange.

    Only trainable parameters have gradients: with LoRA a few percent of the bytes.

    Returns:
        the bytes that this process has put into the sum.
    """
    if world_size() == 1:
        return 0
    gradients = [parameter.grad for parameter in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat, group=_part)
    parts = flat.split([gradient.numel() for gradient in gradients])
    shaped = [part.view_as(gradient) for gradient, part in zip(gradients, parts, strict=True)]
    torch._foreach_copy_(gradients, shaped)  # a few kernels on a GPU, not one a gradient
    return flat.nbytes


def sum_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The sum of a number that each process holds a share of."""
    if world_size() > 1:
        dist.all_reduce(value, group=_part)
    return value
