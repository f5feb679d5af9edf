"""A model's parameters: how many there are, which are trained, and a fingerprint of them all."""

import hashlib
from collections.abc import Iterable

import torch
from torch import nn


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """`total` and `trainable` parameters; a tensor shared by two names counts once.

    Weights that are kept in codes (`llm.lora.quantize`) count in the total.
    """
    parameters = list(model.parameters())
    in_codes = sum(getattr(module, "weights_in_codes", 0) for module in model.modules())
    return {
        "total": sum(p.numel() for p in parameters) + in_codes,
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
    }


def share(part: float) -> str:
    """A share with as many digits as say something: 100 %, 2.5 %, 0.007 %."""
    return f"{100 * part:.{0 if part > 0.1 else 1 if part > 0.001 else 3}f} %"


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The trainable parameters by name, detached, not copied."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def fingerprint(model: nn.Module | dict[str, torch.Tensor]) -> str:
    """SHA-256 of all weights, as float32, with their names and shapes: equal for equal models."""
    state = model.state_dict() if isinstance(model, nn.Module) else model
    return fingerprint_of((name, state[name]) for name in sorted(state))


@torch.no_grad()
def fingerprint_of(weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    """`fingerprint` of weights by name, one after the other, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in weights:
        tensor = tensor.detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy())
        del tensor  # before the next is made
    return digest.hexdigest()
