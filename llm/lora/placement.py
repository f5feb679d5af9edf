"""Where LoRA goes: which kinds of layer, in which blocks, and how wide in each.

`targets` names kinds of layer ("W_query"), `layers` the blocks, `rank_pattern` the kinds that have
another rank than the rest. What is learned late in a text model is mostly made in its upper
blocks; and if the lower ones have no LoRA, their output never changes, so it can be computed once
(`frozen_blocks`, `llm.training.prefix`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from llm.lora.quantized_linear import QuantizedLinear
from llm.utils.errors import InputError

_BLOCK = re.compile(r"(?:^|\.)trf_blocks\.(\d+)\.")


def places(
    model: nn.Module,
    rank: int,
    targets: str | Iterable[str],
    layers: Sequence[int] | None = None,
    rank_pattern: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """The full name of every Linear that is to have LoRA, in the model's order, and its rank.

    Args:
        targets: the last part of the layers' names, or "all" for every Linear.
        layers: numbers of blocks, from 0; what lies in no block is left out then. None: all.
        rank_pattern: {the last part of a name: its rank}, for those that differ from `rank`.

    Raises:
        InputError: a name or a block that is not there (lists those there are), a rank that is
            larger than the layer.
    """
    kinds = (nn.Linear, QuantizedLinear)
    linears = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    known = list(dict.fromkeys(map(_kind, linears)))
    wanted = known if targets == "all" else [targets] if isinstance(targets, str) else list(targets)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise InputError(
            f"no Linear layer is called {', '.join(unknown) or '(nothing)'}; "
            f"choose from {', '.join(known)}, or all"
        )
    if stray := [name for name in rank_pattern or {} if name not in wanted]:
        raise InputError(
            f"a rank for {', '.join(stray)}, which is none of the targets {', '.join(wanted)}",
            settings=("rank_pattern", "targets"),
        )
    chosen = [name for name in linears if _kind(name) in wanted]
    if layers is not None:
        blocks = sorted({block_of(name) for name in linears} - {None})
        if missing := [number for number in layers if number not in blocks]:
            there = f"they are 0 to {blocks[-1]}" if blocks else "it has none"
            raise InputError(f"the model has no block {missing[0]}; {there}", settings=("layers",))
        chosen = [name for name in chosen if block_of(name) in layers]
        if not chosen:
            raise InputError(f"no block holds {', '.join(wanted)}", settings=("layers", "targets"))
    ranks = {name: (rank_pattern or {}).get(_kind(name), rank) for name in chosen}
    widest = max(max(model.get_submodule(name).weight.shape) for name in chosen)
    for found in ranks.values():
        if found > widest:
            raise InputError(
                f"rank {found} is too large: no layer here has more than {widest} of it"
            )
    return ranks


def block_of(name: str) -> int | None:
    """The number of the block that a layer of this name is in; None outside of them."""
    match = _BLOCK.search(name)
    return int(match[1]) if match else None


def frozen_blocks(adapted: Iterable[str], n_layers: int) -> int:
    """How many blocks from the bottom hold none of these layers."""
    return min((n for n in map(block_of, adapted) if n is not None), default=n_layers)


def _kind(name: str) -> str:
    return name.rpartition(".")[2]
