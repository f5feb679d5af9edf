"""CUDA graphs: the kernels of a step, recorded once and then started together.

A GPU finishes small kernels sooner than Python can start them. `CUDAGraphSteps` records forward
and backward pass, `RecordedUpdate` clipping and AdamW; between the two, gradients can be exchanged.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn


class CUDAGraphSteps:
    """Forward and backward pass as a CUDA graph: recorded once a batch shape, then replayed.

    A replay starts some thousand kernels at the price of one. It reads and writes the same
    addresses each time: batches are copied into the recorded one, and the gradients that it
    leaves are valid until the next call.

    Args:
        loss_of: batch -> loss. Batches are tensors, numbers, and tuples of these.
        parameters: those that get a gradient.
    """

    def __init__(self, loss_of: Callable[[Any], torch.Tensor], parameters: list[nn.Parameter]):
        self.loss_of, self.parameters = loss_of, parameters
        self.recorded: dict[tuple, tuple] = {}
        self.pool = None  # memory that all recordings share
        self.gradients: list[torch.Tensor] = []  # where all recordings leave them
        self.side = torch.cuda.Stream()  # the matrix library keeps scratch memory for each stream

    def __call__(self, batch: Any) -> torch.Tensor:
        """Set the parameters' gradients for this batch. Returns the loss, a scalar."""
        key = tuple(
            (leaf.shape, leaf.dtype) if torch.is_tensor(leaf) else leaf for leaf in _leaves(batch)
        )
        if key not in self.recorded:
            self.recorded[key] = self._record(batch)
        graph, mine, loss = self.recorded[key]
        for ours, theirs in zip(_leaves(mine), _leaves(batch)):
            if torch.is_tensor(ours):
                ours.copy_(theirs, non_blocking=True)
        graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients):
            parameter.grad = gradient
        return loss.clone()

    def _record(self, batch: Any) -> tuple:
        mine = _copy(batch)
        draws = torch.cuda.get_rng_state()  # dropout must not depend on what is recorded when
        self.side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.side):  # libraries and compilers set themselves up
            for _ in range(3):
                self._forget_gradients()
                self.loss_of(mine).backward()
        torch.cuda.current_stream().wait_stream(self.side)
        self._forget_gradients()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.side):
            loss = self.loss_of(mine)
            loss.backward()
            gradients = [parameter.grad for parameter in self.parameters]
            if self.gradients:  # the next recording may use the memory of these, not of the first
                torch._foreach_copy_(self.gradients, gradients)
        self.gradients = self.gradients or gradients
        self._forget_gradients()
        torch.cuda.set_rng_state(draws)
        self.pool = self.pool or graph.pool()
        return graph, mine, loss.detach()

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


class RecordedUpdate:
    """Clipping and a step of AdamW as a CUDA graph.

    The gradients have to lie where they lay when it was recorded, as `CUDAGraphSteps` leaves them.

    Args:
        optimizer: AdamW, fused; its learning rates become tensors, which a recording reads anew.
        parameters: its own.
        clip_norm: longest gradient; 0: any.
    """

    def __init__(
        self, optimizer: torch.optim.AdamW, parameters: list[nn.Parameter], clip_norm: float
    ):
        self.optimizer, self.parameters, self.clip_norm = optimizer, parameters, clip_norm
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=parameters[0].device)
            group["capturable"] = True
        self.taken = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.side = torch.cuda.Stream()

    def __call__(self, rate: float) -> None:
        """Clip and step at a learning rate, times each group's ratio."""
        for group in self.optimizer.param_groups:
            group["lr"].fill_(rate * group["ratio"])
        self.taken += 1
        if self.taken == 1:  # AdamW makes its state at its first step
            self._update()
            return
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            self.side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.graph(self.graph, stream=self.side):
                self._update()
        self.graph.replay()

    def _update(self) -> None:
        if self.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()


def _leaves(batch: Any) -> Iterator:
    if isinstance(batch, tuple):
        for part in batch:
            yield from _leaves(part)
    else:
        yield batch


def _copy(batch: Any) -> Any:
    if isinstance(batch, tuple):
        parts = [_copy(part) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    return batch.clone() if torch.is_tensor(batch) else batch
