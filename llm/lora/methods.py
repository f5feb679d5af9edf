"""What is trainable: the four ways to adapt a pretrained body, behind one function.

| method       | trains                                          |
| ------------ | ----------------------------------------------- |
| `full`       | everything                                      |
| `last_block` | the last block, the final LayerNorm, the head   |
| `head`       | the head alone                                  |
| `lora`       | A and B beside the frozen layers, and the head  |
"""

from dataclasses import dataclass, field

from torch import nn

from llm.lora.fused import fuse
from llm.lora.inject import BLOCK_TARGETS, replace_linear_with_lora
from llm.model.classifier import GPTClassifier
from llm.utils.errors import InputError

METHODS = ("full", "last_block", "head", "lora")


@dataclass(frozen=True)
class LoRASettings:
    """See `llm.lora.LoRALayer` and `llm.lora.replace_linear_with_lora`."""

    rank: int = 8
    alpha: float = 16
    targets: list[str] | str = field(default_factory=lambda: list(BLOCK_TARGETS))
    dropout: float = 0.0
    rslora: bool = False


def apply_method(
    model: GPTClassifier, method: str, lora: LoRASettings | None = None, fast: bool = True
) -> int:
    """Set what is trainable, and inject LoRA layers for `lora`, in place.

    Args:
        fast: with LoRA, put the layers' fast form in place (`llm.lora.fused`); the same numbers.

    Returns:
        how many blocks from the bottom stay as they are. What they make of a message never
        changes, so training can compute it once (`llm.training.classification`).

    Raises:
        InputError: for an unknown method, or LoRA settings that do not fit the model.
    """
    check_method(method)
    if method == "lora":
        lora = lora or LoRASettings()
        replace_linear_with_lora(
            model, lora.rank, lora.alpha, lora.targets, lora.dropout, lora.rslora
        )
        if fast:
            fuse(model)
        return 0
    n_layers = model.config.n_layers
    body = model.body
    trained: dict[str, list[nn.Module]] = {
        "full": [model],
        "last_block": [body.trf_blocks[-1], body.final_norm, model.head],
        "head": [model.head],
    }
    model.requires_grad_(False)
    for module in trained[method]:
        module.requires_grad_(True)
    return {"full": 0, "last_block": n_layers - 1, "head": n_layers}[method]


def check_method(method: str) -> None:
    """Raises InputError for an unknown method."""
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
