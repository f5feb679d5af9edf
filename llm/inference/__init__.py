"""Using a model: probabilities and metrics, text, several adapters, voices, explanations."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "adapters": ["Adapters"],
        "bayes": ["classify_by_voices"],
        "evaluation": ["classification_metrics", "classify"],
        "log_probabilities": ["measure_documents"],
        "memorised": ["repeated"],
        "reading": ["read_messages"],
        "voices": ["write", "write_in_turns", "write_mixed"],
    },
)
