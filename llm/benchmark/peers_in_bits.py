"""Models with random W in few bits, for `llm.benchmark`: ours, and that of peft and bitsandbytes.

Both are quantised matrix after matrix, where the model is to be, so that no more than one matrix is
there in full.
"""

import torch
from torch import nn

from llm.lora.quantized_linear import QuantizedLinear
from llm.model.classifier import GPTClassifier
from llm.model.config import GPTConfig


def random_classifier(config: GPTConfig, quantize: str | None = None) -> GPTClassifier:
    """A classifier with random weights on PyTorch's default device.

    Args:
        quantize: "nf4" or "int8" for the W of all Linears but the head's; None: as they are.
    """
    if quantize is None:
        return GPTClassifier(config)
    with torch.device("meta"):
        model = GPTClassifier(config)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and child is not model.head:
                linear = nn.Linear(child.in_features, child.out_features)
                nn.init.normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)
                setattr(module, name, QuantizedLinear(linear, quantize))
                del linear
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                value = torch.empty(parameter.shape)
                if parameter.dim() == 2:
                    nn.init.normal_(value, std=0.02)
                else:
                    value.fill_(float(name == "scale"))
                setattr(module, name, nn.Parameter(value))
    return model


def four_bits(model: nn.Module, precision: str, lean: bool) -> None:
    """Put W of a GPT2ForSequenceClassification into bitsandbytes' NF4, in place, for `peft`.

    GPT-2's layers are `Conv1D`, which peft cannot train beside in four bits; transformers replaces
    them by bitsandbytes' Linear4bit when it loads a folder, and turns their W round. Here the same
    function of transformers replaces them, and random weights are put in: no folder of 3 GB has to
    be written first.

    Args:
        precision: "fp32": the products' numbers; else bfloat16.
        lean: leave what is not in four bits as it is. Else it becomes float32, as
            `prepare_model_for_kbit_training` of peft, which its guide has one call, makes it.
    """
    from bitsandbytes.nn import Params4bit
    from transformers import BitsAndBytesConfig
    from transformers.integrations import replace_with_bnb_linear

    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    before = dict(model.named_modules())
    replace_with_bnb_linear(model, ["score"], quantization_config=config)
    for name, layer in list(model.named_modules()):
        old = before.pop(name, None)
        if old is None or old is layer:
            continue
        weight = old.weight.detach()
        weight = weight if isinstance(old, nn.Linear) else weight.T
        layer.weight = Params4bit(
            weight.to(dtype).contiguous(),
            requires_grad=False,
            compress_statistics=True,
            quant_type="nf4",
            module=layer,
        ).to(weight.device)
        layer.bias = nn.Parameter(old.bias.detach(), requires_grad=False)
        old.weight = None  # its memory is free before the next matrix is quantised
    model.is_loaded_in_4bit = True
    model.requires_grad_(False)
    if not lean:
        from peft import prepare_model_for_kbit_training

        prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
