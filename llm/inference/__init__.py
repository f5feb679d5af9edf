"""Using a model: probabilities and metrics, text, several adapters, explanations."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "adapters": ["Adapters"],
        "evaluation": ["classification_metrics", "classify"],
        "reading": ["read_messages"],
    },
)
