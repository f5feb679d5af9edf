"""What makes a training step faster or smaller on a GPU, with the same result to rounding.

A GPU finishes small operations sooner than Python can start them, and large ones spend much of
their time on reading and writing memory. So:

* `compile_blocks` lets PyTorch join neighbouring operations into one kernel;
* `CUDAGraphSteps` records all kernels of a step once, and starts them together ever after;
* `keep_frozen_in_bfloat16` halves the weights that are only read;
* `recompute_all` and `recompute_cheap` forget activations in the forward pass and compute them
  again in the backward pass (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost").
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)


def compile_blocks(model: nn.Module) -> None:
    """Compile the transformer blocks, in place.

    All blocks have the same code, so PyTorch compiles it once and not once a block. The first
    block's input needs no gradient with LoRA, and the last block of a classifier, a function of
    its own, computes one token a message: three versions at most.
    """
    for block in _blocks(model):
        block.compile()
    if hasattr(model, "last_block"):
        model.last_block = torch.compile(model.last_block)


@contextmanager
def compiled_blocks(model: nn.Module) -> Iterator[None]:
    """`compile_blocks` for a while. Evaluations, whose batches are of any shape, stay out of it."""
    function = getattr(model, "last_block", None)
    compile_blocks(model)
    try:
        yield
    finally:
        for block in _blocks(model):
            block._compiled_call_impl = None
        if function:
            model.last_block = function


def keep_frozen_in_bfloat16(model: nn.Module) -> None:
    """Keep every weight that is not trained in bfloat16, in place: 2 bytes in place of 4.

    What is trained stays in float32, whose small steps bfloat16 would round away. Activations
    then flow in bfloat16 too.
    """
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)


@contextmanager
def frozen_in_bfloat16(model: nn.Module) -> Iterator[None]:
    """`keep_frozen_in_bfloat16` for a while; then the weights are again the same, bit for bit.

    The originals wait in the computer's memory, not in the GPU's. What was trained on in their
    place has not changed either, or a RuntimeError says so.
    """
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    originals = [(parameter, parameter.data.cpu()) for parameter in frozen]
    keep_frozen_in_bfloat16(model)
    try:
        yield
    finally:
        changed = False
        for parameter, original in originals:
            changed |= not torch.equal(parameter.data.cpu(), original.to(torch.bfloat16))
            parameter.data = original.to(parameter.device)
        if changed:
            raise RuntimeError("training changed a frozen weight")


def recompute_all(model: nn.Module) -> None:
    """Keep nothing of a block but its input: least memory, a third more arithmetic."""
    _recompute(model, _keep_nothing)


def recompute_cheap(model: nn.Module) -> None:
    """Keep matrix products and attention; LayerNorm, GELU and sums again when needed.

    For compiled blocks alone: without the compiler, sums are made in place in kept products.
    """
    _recompute(model, _keep_products)


def _recompute(model: nn.Module, policy: Callable) -> None:
    """Wrap what computes a block, before it is compiled, so that the compiler sees the wrapper."""
    contexts = {"context_fn": partial(create_selective_checkpoint_contexts, policy)}
    # Dropout must be drawn anew as it was; a CUDA graph cannot be recorded around that.
    draws = any(isinstance(module, nn.Dropout) and module.p for module in model.modules())

    def wrapped(function: Callable) -> Callable:
        def recomputed(*args):
            if not torch.is_grad_enabled():
                return function(*args)
            # Without the compiler, to ask for each operation takes longer than the operation.
            asks = policy is not _keep_nothing or torch.compiler.is_compiling()
            how = {
                "use_reentrant": False,
                "preserve_rng_state": draws,
                **(contexts if asks else {}),
            }
            return checkpoint(function, *args, **how)

        return recomputed

    for block in _blocks(model):
        block.forward = wrapped(block.forward)
    if hasattr(model, "last_block"):
        model.last_block = wrapped(model.last_block)


_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}


def _keep_nothing(context, operation, *args, **kwargs) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_RECOMPUTE


def _keep_products(context, operation, *args, **kwargs) -> CheckpointPolicy:
    name = operation.__name__.partition(".")[0]
    product = name in _PRODUCTS or "scaled_dot_product" in name
    return CheckpointPolicy.MUST_SAVE if product else CheckpointPolicy.PREFER_RECOMPUTE


def _blocks(model: nn.Module) -> nn.ModuleList:
    """The blocks of a GPTModel or of a GPTClassifier."""
    return getattr(model, "body", model).trf_blocks


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
