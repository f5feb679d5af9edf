"""Several processes on one batch (`torchrun --nproc-per-node N -m llm …`); one process is a team
of its own, for which every function here does nothing."""

import os
from contextlib import contextmanager, nullcontext

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


def processes() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0: before and after the team's work, too."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def first() -> bool:
    """Whether this is the process that writes files and prints."""
    return rank() == 0


def wrap(model: nn.Module) -> nn.Module:
    """Average the gradients over the processes during backward (DistributedDataParallel).

    Only trainable parameters have gradients to exchange: with LoRA a few percent of the bytes.
    `exchanged_bytes` tells how many it were.
    """
    if processes() == 1:
        return model
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    wrapped = nn.parallel.DistributedDataParallel(model)
    wrapped.exchanged_bytes = 0

    def average_and_count(group, bucket):
        wrapped.exchanged_bytes += bucket.buffer().nbytes
        return allreduce_hook(group, bucket)

    wrapped.register_comm_hook(None, average_and_count)
    return wrapped


def exchanged_bytes(model: nn.Module) -> int:
    """Bytes of gradients that this process has put into averages so far."""
    return getattr(model, "exchanged_bytes", 0)


def no_sync(model: nn.Module):
    """Keep the gradients of this backward pass to oneself: more parts of the batch follow."""
    wrapped = isinstance(model, nn.parallel.DistributedDataParallel)
    return model.no_sync() if wrapped else nullcontext()


def sum_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The sum of a number that each process holds a share of."""
    if processes() > 1:
        dist.all_reduce(value)
    return value
