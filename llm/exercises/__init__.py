"""What the exercises' checks share: calling an answer, comparing it, naming the mistake."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "checks": [
            "STEPS",
            "TINY",
            "attempt",
            "exercise",
            "expect",
            "pair",
            "plainly",
            "same",
        ],
    },
)
