"""GPT-2: its shape, attention, the block, the model, and a classifier on top."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "config": ["PRESETS", "GPTConfig"],
        "attention": ["MultiHeadAttention"],
        "blocks": ["TransformerBlock", "LayerNorm", "FeedForward"],
        "gpt": ["GPTModel"],
        "classifier": ["GPTClassifier"],
        "parameters": ["fingerprint", "parameter_counts"],
    },
)
