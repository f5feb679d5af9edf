"""Putting LoRA layers into a model, and taking them out again."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from llm.lora.dora import LinearWithDoRA
from llm.lora.layer import LinearWithLoRA, dense
from llm.lora.pissa import start_from_principal_part
from llm.lora.placement import places
from llm.lora.quantized_linear import dequantize_linears, quantize_linears, quantized_layers
from llm.lora.settings import BLOCK_TARGETS, LoRASettings, check_choices, check_settings
from llm.utils.errors import InputError


def replace_linear_with_lora(
    model: nn.Module,
    rank: int,
    alpha: float,
    targets: str | Iterable[str] = BLOCK_TARGETS,
    dropout: float = 0.0,
    rslora: bool = False,
    freeze: bool = True,
    variant: str = "lora",
    init: str = "default",
    quantize: str | None = None,
    layers: Sequence[int] | None = None,
    rank_pattern: Mapping[str, int] | None = None,
) -> list[str]:
    """Put a LoRA layer beside every Linear that `targets` names, in place.

    Args:
        model: any module; a GPTClassifier's head is trained itself unless it is a target. It
            starts from random numbers, and a low-rank update of a random matrix is not what one
            wants: 12,320 numbers at rank 16 to steer 1,538.
        targets: the last part of the layers' names ("W_query"), or "all" for every Linear,
            the head included, as the book's code does (Raschka 2024, appendix E).
        freeze: let only A and B (and the untargeted head) be trained.
        variant: "lora", or "dora" for `llm.lora.dora`.
        init: "default", or "pissa" for the start of `llm.lora.pissa`.
        quantize: keep the frozen W of all Linears but the head's in few bits: "nf4" or "int8"
            (`llm.lora.quantized_linear`).
        layers, rank_pattern: see `llm.lora.placement.places`. Alpha is the same everywhere, so a
            layer's scale is alpha / its own rank.

    Returns:
        the full names of the replaced layers, in the model's order.

    Raises:
        InputError: an unknown target (lists the names there are), LoRA layers there already, a
            setting out of range. Nothing is changed then.
    """
    check_settings(rank, alpha, dropout)
    check_choices(
        LoRASettings(
            variant=variant,
            init=init,
            quantize=quantize,
            layers=layers,
            rank_pattern=rank_pattern or {},
        )
    )
    if any(isinstance(module, LinearWithLoRA) for module in model.modules()):
        raise InputError("the model has LoRA layers already; merge them before adding others")
    ranks = places(model, rank, targets, layers, rank_pattern)
    for name, its_rank in ranks.items():
        most = min(model.get_submodule(name).weight.shape)
        if init == "pissa" and its_rank > most:
            raise InputError(f"pissa at rank {its_rank}: {name} has {most} singular values only")
    if freeze:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("head" not in ranks and name.startswith("head."))
    if quantize:
        quantize_linears(model, quantize)
    kind = {"lora": LinearWithLoRA, "dora": LinearWithDoRA}[variant]
    for name, its_rank in ranks.items():
        parent, _, child = name.rpartition(".")
        owner = model.get_submodule(parent)
        layer = kind(getattr(owner, child), its_rank, alpha, dropout, rslora)
        setattr(owner, child, layer)
        if init == "pissa":
            start_from_principal_part(layer)
    return list(ranks)


def lora_layers(model: nn.Module) -> dict[str, LinearWithLoRA]:
    """The LoRA-adapted layers of a model by their full name."""
    layers = model.named_modules()
    return {name: module for name, module in layers if isinstance(module, LinearWithLoRA)}


def merge(model: nn.Module) -> None:
    """Merge every LoRA layer of the model. Raises InputError when one is merged already."""
    for layer in _all_with(model, merged=False):
        layer.merge()


def unmerge(model: nn.Module) -> None:
    """Unmerge every LoRA layer of the model. Raises InputError when one is not merged."""
    for layer in _all_with(model, merged=True):
        layer.unmerge()


def merge_and_unload(model: nn.Module) -> None:
    """Fold every update into its W and take the LoRA layers out: a plain model remains.

    Weights in codes become the numbers that they stand for, so that its answers are the same.
    """
    for name, layer in lora_layers(model).items():
        if not layer.merged:
            layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.linear)
    dequantize_linears(model)


@torch.no_grad()
def update_length(model: nn.Module) -> float:
    """How far merging will move the weights: the length (Frobenius norm) of all updates together.

    A head's is left out.
    """
    squares = 0.0
    for name, layer in lora_layers(model).items():
        if name != "head":
            update = layer.merged_weight() - dense(layer.linear)
            squares += float(update.double().square().sum())
    return squares**0.5


def merged_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights by name as `merge_and_unload` would leave them; the model stays as it is."""
    state = {name: x for name, x in model.state_dict().items() if ".lora." not in name}
    for name, layer in quantized_layers(model).items():
        for kind in layer.weight.state_dict():
            del state[f"{name}.weight.{kind}"]
        state[f"{name}.weight"] = dense(layer)
    for name, layer in lora_layers(model).items():
        for kind in ("weight", "bias"):
            if f"{name}.linear.{kind}" in state:
                state[f"{name}.{kind}"] = state.pop(f"{name}.linear.{kind}")
        if not layer.merged:
            state[f"{name}.weight"] = layer.merged_weight().detach()
    return state


def _all_with(model: nn.Module, merged: bool) -> list[LinearWithLoRA]:
    """All LoRA layers, checked before any is touched, so that an error leaves nothing half done."""
    layers = list(lora_layers(model).values())
    if not layers:
        raise InputError("the model has no LoRA layers; add them with replace_linear_with_lora")
    if any(layer.merged != merged for layer in layers):
        state = "merged already" if not merged else "not merged"
        raise InputError(f"a LoRA layer of this model is {state}")
    return layers
