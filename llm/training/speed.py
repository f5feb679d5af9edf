"""What makes a training step faster or smaller on a GPU, with the same result to rounding.

A GPU finishes small operations sooner than Python can start them, and large ones spend much of
their time on reading and writing memory. So:

* `compile_blocks` lets PyTorch join neighbouring operations into one kernel;
* `llm.training.graphs` records all kernels of a step once, and starts them together ever after;
* `keep_frozen_in_bfloat16` halves the weights that are only read;
* `recompute_all` and `recompute_cheap` forget activations in the forward pass and compute them
  again in the backward pass (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost").
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from llm.lora.room import make_room


def compile_blocks(model: nn.Module) -> Callable[[], None]:
    """Compile the transformer blocks, in place, with room for A and B beside their W.

    All blocks have the same code, so PyTorch compiles it once and not once a block. The first
    block's input needs no gradient with LoRA, and the last block of a classifier, a function of
    its own, computes one token a message: three versions at most.

    Returns:
        what makes the model as it was.
    """
    # First and other blocks, each for one shape, for more, and for rows longer than 128 tokens.
    torch._dynamo.config.recompile_limit = max(16, torch._dynamo.config.recompile_limit)
    last = getattr(model, "last_block", None)
    take_room_away = make_room(model)
    for block in _blocks(model):
        block.compile()
    if last:
        model.last_block = torch.compile(last)

    def undo() -> None:
        for block in _blocks(model):
            block._compiled_call_impl = None
        if last:
            model.last_block = last
        take_room_away()

    return undo


@contextmanager
def compiled_blocks(model: nn.Module) -> Iterator[None]:
    """`compile_blocks` for a while. Evaluations, whose batches are of any shape, stay out of it."""
    undo = compile_blocks(model)
    try:
        yield
    finally:
        undo()


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
    product = name in _PRODUCTS or "scaled_dot_product" in name or name == "short_attention"
    return CheckpointPolicy.MUST_SAVE if product else CheckpointPolicy.PREFER_RECOMPUTE


def _blocks(model: nn.Module) -> nn.ModuleList:
    """The blocks of a GPTModel or of a GPTClassifier."""
    return getattr(model, "body", model).trf_blocks
