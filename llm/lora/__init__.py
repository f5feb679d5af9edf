"""LoRA: the layer, putting it into a model, what is trained, and its fast forms."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "layer": ["LinearWithLoRA", "LoRALayer"],
        "dora": ["LinearWithDoRA"],
        "inject": [
            "lora_layers",
            "merge",
            "merge_and_unload",
            "replace_linear_with_lora",
            "unmerge",
        ],
        "quantize": ["quantize_int8", "quantize_nf4"],
        "quantized_linear": ["QuantizedLinear", "quantize_linears"],
        "methods": ["apply_method"],
        "settings": ["BLOCK_TARGETS", "METHODS", "LoRASettings"],
    },
)
