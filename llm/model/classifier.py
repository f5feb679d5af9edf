"""GPTClassifier: the same body, and a small head that reads each message's last real token.

The last token is the only one that has looked at the whole message (Radford et al. 2018,
section 3.2). "Real" matters: a model that reads the last *padded* token answers differently when
a longer message stands in the same batch. So lengths are carried along with the ids, and never
found by searching for a padding token, which a message may contain.
"""

import torch
from torch import nn

from llm.model.attention import last_tokens
from llm.model.config import GPTConfig
from llm.model.gpt import GPTModel
from llm.utils.errors import InputError


class GPTClassifier(nn.Module):
    """A GPT-2 body with a linear head for `n_classes` labels, (emb_dim -> n_classes).

    Without a `body`, one with random weights is made.
    """

    def __init__(self, config: GPTConfig, n_classes: int = 2, body: GPTModel | None = None):
        super().__init__()
        self.body = GPTModel(config) if body is None else body
        self.head = nn.Linear(config.emb_dim, n_classes)
        self.n_classes = n_classes
        self.packed = None  # True or False chooses the layout; None: packed unless on a GPU
        if self.head.weight.device.type != "meta":
            nn.init.normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    @property
    def config(self) -> GPTConfig:
        """The shape of the body."""
        return self.body.config

    def forward(self, x: torch.Tensor, lengths: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Class scores of a batch of messages.

        Args:
            x: (batch, longest) token ids, padded on the right with any token; or, where `start`
                is above 0, what the first `start` blocks made of them, packed or in rows.
            lengths: (batch,) real tokens in each row, at least 1.
            start: blocks that `x` has been through already.

        Returns:
            logits (batch, n_classes); softmax makes them probabilities.
        """
        x = self.embed(x, lengths) if start == 0 else x
        blocks = self.body.trf_blocks[start:]
        for block in blocks[:-1]:
            x = block(x, lengths)
        x = blocks[-1](x, lengths, last_only=True) if len(blocks) else last_tokens(x, lengths)
        x = self.body.final_norm(x)  # (batch, emb_dim)
        # The body may be kept in bfloat16, the head is not.
        return self.head(x.to(next(self.head.parameters(), x).dtype))  # (batch, n_classes)

    def embed(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Ids -> packed embeddings (all_tokens, emb_dim) on a CPU, padded rows on a GPU.

        A CPU's time goes with the number of tokens, so padding is dropped; a GPU's goes with the
        number of kernels started, so rows stay in one block. The result is the same to rounding.

        Raises InputError when a row is longer than the context; `llm.data.batching` cuts messages.
        """
        positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
        if ids.shape[1] > self.config.context_length:
            raise InputError(
                f"a message of {ids.shape[1]} tokens does not fit into the context of "
                f"{self.config.context_length}; cut it"
            )
        if not ids.is_cuda if self.packed is None else self.packed:
            real = positions < lengths[:, None]  # (batch, longest)
            ids, positions = ids[real], positions[real]  # (all_tokens,)
        return self.body.embed(ids, positions)
