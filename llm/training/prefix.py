"""What the frozen blocks below the first trained one make of each text, computed once.

They make the same of it at every step, so they cost one forward pass in all, and not one an epoch:
LoRA in the upper half of a model trains as if the model were half as deep.

Training on what was kept is training without it to the last bit, if each text gets from the frozen
blocks what it gets beside any others: attention is padded to a multiple of PAD_TO for that
(`llm.model.groups`). On a GPU, where batches are padded rows otherwise, it is so to rounding.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from llm.data.batching import Batch, Encoded, collate, sorted_batches
from llm.model.layouts import Layout

PAD_TO = 16  # tokens: `llm.model.groups` says why


@torch.no_grad()
def states_of_each(
    texts: Encoded,
    device: torch.device | str,
    states_of: Callable[[Batch], Sequence[torch.Tensor]],
) -> list[torch.Tensor]:
    """What a model makes of each text: a list of (tokens, emb_dim), in the order of the texts.

    Args:
        states_of: what it makes of those of a batch.
    """
    states: list[torch.Tensor] = [torch.empty(0)] * len(texts)
    for indices in sorted_batches([len(ids) for ids in texts.ids], 2048):
        found = states_of(collate(texts, indices, device))
        for index, rows in zip(indices, found, strict=True):
            states[index] = rows.clone()
    return states


def after_blocks(blocks: nn.ModuleList, x: torch.Tensor, layout: Layout) -> Sequence[torch.Tensor]:
    """What some blocks make of each text of a batch: (tokens, emb_dim) each."""
    for block in blocks:
        x = block(x, layout.attend)
    return layout.messages(x)
