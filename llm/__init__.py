"""A GPT-2 written from scratch, and LoRA to adapt it: read the rooms in the order of `README.md`.

The names below are imported when they are first used, so `import llm` costs nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "model.config": ["GPTConfig"],
        "model.gpt": ["GPTModel"],
        "model.classifier": ["GPTClassifier"],
        "formats.base": ["load_base"],
        "formats.finetuned": ["load_finetuned"],
        "inference.adapters": ["Adapters"],
        "inference.generate": ["generate"],
        "training.finetuning": ["finetune"],
    },
)
