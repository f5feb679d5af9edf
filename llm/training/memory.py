"""What a training step costs: parameters, memory by kind, and the process's peak.

A step holds four kinds of memory. LoRA shrinks two of them to almost nothing:

* weights: the model itself, the same for every method (LoRA adds A and B);
* gradients: one number for each *trainable* weight;
* optimizer state: AdamW keeps two more for each trainable weight;
* activations: what the forward pass keeps for the backward pass. LoRA needs as many when every
  layer has its A, whose gradient is made of that layer's input. To reach the A and B of the first
  block, gradients flow through all blocks above.

QLoRA shrinks the first: frozen weights of the blocks in 4.13 bits in place of 32, counted here as
the codes, scales and offsets that they are (`llm.lora.quantize`). Beside what is counted, one
matrix at a time is there in full while it is multiplied with; embeddings are never in codes.
"""

from collections.abc import Callable

import torch
from torch import nn

from llm.model.attention import causal


def static_memory(model: nn.Module) -> dict[str, int]:
    """Bytes of weights, gradients and AdamW's state; works on the meta device too."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    trainable_bytes = sum(p.numel() * p.element_size() for p in trainable)
    tensors = [*model.parameters(), *model.buffers()]
    return {
        "weights": sum(t.numel() * t.element_size() for t in tensors),
        "gradients": trainable_bytes,
        # Two running means a weight, and a 4-byte step counter a tensor.
        "optimizer": 2 * trainable_bytes + 4 * len(trainable),
    }


def activation_memory(model: nn.Module, forward: Callable[[], torch.Tensor]) -> int:
    """Bytes that `forward` keeps for the backward pass, each storage counted once.

    PyTorch shows every tensor that it saves to a pair of hooks. Two operations that save the same
    tensor, or views of it, share one storage; the weights are saved too, but they are no
    activations.
    """
    weights = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    saved: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address is used twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage
        return tensor.detach()  # an output that is saved with its history would never be freed

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = forward()
    total = sum(storage.nbytes() for storage in saved.values())
    del loss
    return total


def memory_account(model: nn.Module, forward: Callable[[], torch.Tensor]) -> dict[str, int]:
    """Bytes by kind that one training step holds when its forward pass has ended."""
    return {**static_memory(model), "activations": activation_memory(model, forward)}


def passing_memory(model: nn.Module, block_input: torch.Tensor, recomputed: bool) -> int:
    """Bytes that come and go inside a step, beside what `memory_account` counts.

    Where blocks are recomputed, all that one block keeps is there while it is gone back through;
    of the matrices in codes, the largest is there in full, and in the products' dtype.

    Args:
        block_input: what enters a block, (batch, tokens, emb_dim), numbers of any kind.
    """
    block = getattr(model, "body", model).trf_blocks[0]
    again = 0
    if recomputed:
        x = block_input.detach().requires_grad_()
        again = activation_memory(model, lambda: type(block).forward(block, x, causal).sum())
    in_codes = [getattr(module, "weights_in_codes", 0) for module in model.modules()]
    device = block_input.device.type
    autocasts = torch.is_autocast_enabled(device)
    width = torch.get_autocast_dtype(device).itemsize if autocasts else 0
    return again + max(in_codes) * (4 + width)


def step_peak(account: dict[str, int]) -> int:
    """The most bytes that a step holds at once.

    The backward pass frees activations as it makes gradients, so it is fullest at one of its
    ends: all activations and no gradients, or all gradients and no activations.
    """
    kept = account["weights"] + account["optimizer"]
    return kept + max(account["activations"], account["gradients"])
