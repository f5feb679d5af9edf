"""GPTClassifier: the same body, and a small head that reads each message's last real token.

The last token is the only one that has looked at the whole message (Radford et al. 2018,
section 3.2). "Real" matters: a model that reads the last *padded* token answers differently when
a longer message stands in the same batch. So lengths are carried along with the ids, and never
found by searching for a padding token, which a message may contain.
"""

import torch
from torch import nn

from llm.attention import last_tokens
from llm.config import GPTConfig
from llm.gpt import GPTModel


class GPTClassifier(nn.Module):
    """A GPT-2 body with a linear head for `n_classes` labels, (emb_dim -> n_classes)."""

    def __init__(self, config: GPTConfig, n_classes: int = 2):
        super().__init__()
        self.body = GPTModel(config)
        self.head = nn.Linear(config.emb_dim, n_classes)
        if self.head.weight.device.type != "meta":
            nn.init.normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    @property
    def config(self) -> GPTConfig:
        """The shape of the body."""
        return self.body.config

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Class scores of a batch of messages.

        Args:
            ids: (batch, longest) token ids, padded on the right with any token.
            lengths: (batch,) real tokens in each row, at least 1.

        Returns:
            logits (batch, n_classes); softmax makes them probabilities.
        """
        return self.head(self.from_hidden(self.embed(ids, lengths), lengths))

    def embed(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Ids -> packed embeddings (all_tokens, emb_dim) on a CPU, padded rows on a GPU.

        A CPU's time goes with the number of tokens, so padding is dropped; a GPU's goes with the
        number of kernels started, so rows stay in one block. The result is the same to rounding.
        """
        positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
        if not ids.is_cuda:
            real = positions < lengths[:, None]  # (batch, longest)
            ids, positions = ids[real], positions[real]  # (all_tokens,)
        return self.body.embed(ids, positions)

    def through_blocks(self, x, lengths, stop: int) -> torch.Tensor:
        """The first `stop` blocks, for all tokens: the shape of `x` -> the same shape."""
        for block in self.body.trf_blocks[:stop]:
            x = block(x, lengths)
        return x

    def from_hidden(self, x, lengths, start: int = 0) -> torch.Tensor:
        """Blocks from `start` on and the final LayerNorm: -> (batch, emb_dim), last tokens."""
        blocks = self.body.trf_blocks[start:]
        for block in blocks[:-1]:
            x = block(x, lengths)
        x = blocks[-1](x, lengths, last_only=True) if len(blocks) else last_tokens(x, lengths)
        return self.body.final_norm(x)
