"""What is trainable: the four ways to adapt a pretrained body, behind one function.

| method       | trains                                          |
| ------------ | ----------------------------------------------- |
| `full`       | everything                                      |
| `last_block` | the last block, the final LayerNorm, the head   |
| `head`       | the head alone                                  |
| `lora`       | A and B beside the frozen layers, and the head  |

`dora` is a name for `lora` with the layers of `llm.lora.dora`, which train their magnitudes too;
`qlora` for `lora` beside layers that are kept in four bits (`llm.lora.quantized_linear`).

A GPTModel, which writes, has no head: its output is the token embedding.
"""

from dataclasses import asdict

from torch import nn

from llm.lora.fused import fuse
from llm.lora.inject import replace_linear_with_lora
from llm.lora.placement import frozen_blocks
from llm.lora.settings import METHODS as METHODS  # offered here too
from llm.lora.settings import LoRASettings, check_method, check_quantize, resolve
from llm.model.classifier import GPTClassifier
from llm.model.gpt import GPTModel
from llm.utils.errors import InputError


def apply_method(
    model: GPTClassifier | GPTModel,
    method: str,
    lora: LoRASettings | None = None,
    fast: bool = True,
) -> int:
    """Set what is trainable, and inject LoRA layers for `lora`, in place.

    Args:
        method: of METHODS, or an alias (`llm.lora.settings.ALIASES`).
        fast: with LoRA, put the layers' fast form in place (`llm.lora.fused`); the same numbers.

    Returns:
        how many blocks from the bottom stay as they are. What they make of a message never
        changes, so training can compute it once (`llm.training.classification`).

    Raises:
        InputError: for an unknown method, `head` where there is none, or LoRA settings that do
            not fit the model.
    """
    method, lora = resolve(method, lora or LoRASettings())
    check_method(method)
    check_quantize(method, lora)
    writes = isinstance(model, GPTModel)
    if writes and method == "head":
        raise InputError("a model that writes has no head to train", settings=("method=lora",))
    n_layers = model.config.n_layers
    if method == "lora":
        adapted = replace_linear_with_lora(model, **asdict(lora))
        if fast:
            fuse(model)
        return frozen_blocks(adapted, n_layers)
    body, head = (model, []) if writes else (model.body, [model.head])
    trained: dict[str, list[nn.Module]] = {
        "full": [model],
        "last_block": [body.trf_blocks[-1], body.final_norm, *head],
        "head": head,
    }
    model.requires_grad_(False)
    for module in trained[method]:
        module.requires_grad_(True)
    return {"full": 0, "last_block": n_layers - 1, "head": n_layers}[method]
