"""What can be chosen about an adaptation: the method, and LoRA's settings. Needs no torch."""

import math
from dataclasses import asdict, dataclass, field, fields, replace

from llm.utils.errors import InputError

METHODS = ("full", "last_block", "head", "lora")  # what each trains: `llm.lora.methods`

# The Linear layers of a block by name; "all" adds the classifier head to them.
BLOCK_TARGETS = ("W_query", "W_key", "W_value", "out_proj", "fc1", "fc2")

# The layer beside a frozen Linear: `llm.lora.layer` or `llm.lora.dora`.
VARIANTS = ("lora", "dora")

# What A and B start as: random numbers and zeros, or `llm.lora.pissa`.
INITS = ("default", "pissa")

# In how few bits a frozen W can be kept: `llm.lora.quantized_linear`.
QUANTIZATIONS = ("nf4", "int8")

# Names that stand for the method `lora` with some of its settings.
ALIASES = {"dora": {"variant": "dora"}, "qlora": {"quantize": "nf4"}}


@dataclass(frozen=True)
class LoRASettings:
    """See `llm.lora.LoRALayer` and `llm.lora.replace_linear_with_lora`."""

    rank: int = 8
    alpha: float = 16
    targets: list[str] | str = field(default_factory=lambda: list(BLOCK_TARGETS))
    dropout: float = 0.0
    rslora: bool = False
    variant: str = "lora"
    init: str = "default"
    quantize: str | None = None  # of QUANTIZATIONS; None: W as it is
    layers: list[int] | None = None  # blocks, from 0; None: all
    rank_pattern: dict[str, int] = field(default_factory=dict)  # by kind of layer, where not `rank`

    def to_dict(self) -> dict:
        """As plain JSON, without what came later and is as it always was.

        Folders and checkpoints from before these settings are known again by it.
        """
        later = {f.name for f in fields(self)[5:]}
        usual = asdict(LoRASettings())
        return {k: x for k, x in asdict(self).items() if k not in later or x != usual[k]}


def resolve(method: str, lora: LoRASettings) -> tuple[str, LoRASettings]:
    """The method of METHODS that a name stands for, and LoRA's settings with what it says."""
    return ("lora", replace(lora, **ALIASES[method])) if method in ALIASES else (method, lora)


def check_method(method: str) -> None:
    """Raises InputError for an unknown method."""
    if method not in METHODS:
        known = ", ".join((*METHODS, *ALIASES))
        raise InputError(f"unknown method {method!r}; choose from {known}")


def check_choices(lora: LoRASettings) -> None:
    """Raise InputError when a setting with a few choices is none of them, or two do not go."""
    for name, choices in (
        ("variant", VARIANTS),
        ("init", INITS),
        ("quantize", (*QUANTIZATIONS, None)),
    ):
        if (found := getattr(lora, name)) not in choices:
            choices = [choice for choice in choices if choice]
            wanted = " or ".join(choices)
            raise InputError(f"{name} must be {wanted}, not {found!r}", settings=(name,))
    numbers = lora.layers
    if numbers is not None and not (
        isinstance(numbers, list | tuple)
        and numbers
        and all(isinstance(number, int) and number >= 0 for number in numbers)
    ):
        raise InputError(
            f"layers must be numbers of blocks, from 0, not {numbers!r}", settings=("layers",)
        )
    if not isinstance(lora.rank_pattern, dict):
        raise InputError(f"rank_pattern must give ranks by name, not {lora.rank_pattern!r}")
    for rank in lora.rank_pattern.values():
        check_settings(rank, alpha=1, dropout=0)
    if lora.init == "pissa" and lora.variant != "lora":
        raise InputError(
            "pissa starts plain LoRA; with DoRA A and B start as usual",
            settings=("init", "variant"),
        )
    if lora.init == "pissa" and lora.quantize:
        raise InputError(
            "pissa takes its start out of W, and a quantised W has lost what that would keep; "
            "choose one of them",
            settings=("init", "quantize"),
        )


def check_quantize(method: str, lora: LoRASettings) -> None:
    """Raise InputError when W is to be quantised by a method that is not `lora`."""
    if lora.quantize and method != "lora":
        raise InputError(
            f"only lora has a W to quantise, which is frozen and used beside A and B; {method} "
            "works on the base as it is (the method qlora is lora quantised to nf4)",
            settings=("quantize",),
        )


def check_settings(rank, alpha, dropout) -> None:
    """Raise InputError when a LoRA layer cannot have these settings."""
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise InputError(f"rank must be a whole number of at least 1, not {rank!r}")
    if not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise InputError(f"alpha must be a number above 0, not {alpha!r}")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise InputError(f"LoRA dropout must be in [0, 1), not {dropout!r}")
