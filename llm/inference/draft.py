"""A message that is being typed: with each key, only what is new in it is read.

No token looks to its right. So what the model has made of the tokens before a change stays what it
is: their keys and values, and their last hidden states. These are kept for each adapter, as in
writing (`llm.inference.generate`), so a key at the end of a long message costs a few tokens and not
all of them. A change at the beginning costs all: then nothing can be kept.
"""

from dataclasses import dataclass

import torch

from llm.inference.adapters import Adapters
from llm.inference.generate import KeyValueCache


@dataclass
class Kept:
    """What an adapter has read."""

    ids: list[int]
    cache: KeyValueCache
    hidden: torch.Tensor  # (tokens, emb_dim), after the final LayerNorm


class Draft:
    """The answers of all adapters that tell messages apart to one message after another."""

    def __init__(self, adapters: Adapters):
        self.adapters = adapters
        self._kept: dict[str, Kept] = {}

    def logits(self, message: str, names: list[str]) -> torch.Tensor:
        """Those of `Adapters.mixed_logits` for the message, to rounding: (names, 2)."""
        before = self.adapters.in_use
        try:
            return torch.cat([self._answer(message, name) for name in names]).float().cpu()
        finally:
            self.adapters.use(before)

    @torch.no_grad()
    def _answer(self, message: str, name: str) -> torch.Tensor:
        """(1, 2)"""
        [ids] = self.adapters.encode([message], [name]).ids
        self.adapters.use(name)
        model = self.adapters.model
        kept = self._kept.pop(name, None)
        same = shared(kept.ids, ids) if kept else 0
        if 2 * same < len(ids):  # from the start is as quick: attention then needs no mask
            same, kept = 0, None
        if kept is None:
            cache, hidden = KeyValueCache(model.config.n_layers), []
        else:
            kept.cache.crop(same)
            cache, hidden = kept.cache, [kept.hidden[:same]]
        new = torch.tensor([ids[same:]], device=model.body.tok_emb.weight.device)
        hidden = torch.cat([*hidden, model.body.hidden_states(new, cache)[0]])
        self._kept[name] = Kept(ids, cache, hidden)
        vector = hidden.mean(0) if model.pool == "mean" else hidden[-1]
        return model.answer(vector[None])


def shared(before: list[int], now: list[int]) -> int:
    """How many tokens at the start are the same; at least the last one is to be read anew."""
    most = min(len(before), len(now) - 1)
    return next((i for i in range(most) if before[i] != now[i]), most)
