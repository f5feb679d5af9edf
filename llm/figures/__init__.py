"""Figures in one style: of a comparison, and of the recorded studies."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "style": ["COLOURS", "NAMES", "new_figure", "save_figure"],
    },
)
