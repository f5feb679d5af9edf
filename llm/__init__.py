"""A GPT-2 written from scratch, and LoRA to adapt it: read the rooms in the order of `README.md`.

The names below are imported when they are first used, so `import llm` costs nothing.
"""

import os

import lazy_loader

# Between two pieces of parallel work PyTorch's threads spin while they wait for one another. Beside
# another program, one that spins keeps the core from the one it waits for, and everything takes
# several times as long; passive ones sleep. Their library, libgomp, reads this when PyTorch is
# imported. What is set already stays. (data/speed.md, "Beside other programs")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

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
