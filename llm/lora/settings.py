"""What can be chosen about an adaptation: the method, and LoRA's settings. Needs no torch."""

import math
from dataclasses import dataclass, field

from llm.utils.errors import InputError

METHODS = ("full", "last_block", "head", "lora")  # what each trains: `llm.lora.methods`

# The Linear layers of a block by name; "all" adds the classifier head to them.
BLOCK_TARGETS = ("W_query", "W_key", "W_value", "out_proj", "fc1", "fc2")


@dataclass(frozen=True)
class LoRASettings:
    """See `llm.lora.LoRALayer` and `llm.lora.replace_linear_with_lora`."""

    rank: int = 8
    alpha: float = 16
    targets: list[str] | str = field(default_factory=lambda: list(BLOCK_TARGETS))
    dropout: float = 0.0
    rslora: bool = False


def check_method(method: str) -> None:
    """Raises InputError for an unknown method."""
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")


def check_settings(rank, alpha, dropout) -> None:
    """Raise InputError when a LoRA layer cannot have these settings."""
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise InputError(f"rank must be a whole number of at least 1, not {rank!r}")
    if not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise InputError(f"alpha must be a number above 0, not {alpha!r}")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise InputError(f"LoRA dropout must be in [0, 1), not {dropout!r}")
