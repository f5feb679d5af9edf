"""The loop, what is trained for, and what makes it fast."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "loop": ["train"],
        "settings": ["FinetuneSettings", "PretrainSettings"],
    },
)
