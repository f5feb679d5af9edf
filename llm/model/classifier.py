"""GPTClassifier: the same body, and a small head that reads one vector a message.

Two ways to make one vector of a message (`pool`):

* `last`: its last token, the only one that has looked at the whole message (Radford et al. 2018,
  section 3.2). "Last" means the last *real* one: lengths are carried along with the ids, and never
  found by searching for a padding token, which a message may contain.
* `mean`: the mean of its tokens. A word anywhere in the message then has a short way to the head.
"""

import torch
from torch import nn

from llm.model.config import GPTConfig
from llm.model.gpt import GPTModel
from llm.model.layouts import Layout, last_tokens_of_block, lay_out, read_all


class GPTClassifier(nn.Module):
    """A GPT-2 body with a linear head for `n_classes` labels, (emb_dim -> n_classes).

    Args:
        body: without, one with random weights is made.
        pool: "last" or "mean", see above.
    """

    def __init__(
        self,
        config: GPTConfig,
        n_classes: int = 2,
        body: GPTModel | None = None,
        pool: str = "last",
    ):
        super().__init__()
        self.pool = pool
        self.body = GPTModel(config) if body is None else body
        self.head = nn.Linear(config.emb_dim, n_classes)
        self.n_classes = n_classes
        self.packed: bool | None = None  # chooses the layout; None: packed unless on a GPU
        self.pad_to = 1  # of `llm.model.layouts.Packed`
        self.last_block = last_tokens_of_block  # `llm.training.speed` puts a compiled one here
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

        Raises:
            InputError: a row is longer than the context; `llm.data.batching` cuts messages.
        """
        return self.from_hidden(*self.embed(ids, lengths))

    def embed(self, ids: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, Layout]:
        """Ids -> what enters the first block, (batch, tokens, emb_dim), and its layout."""
        return lay_out(self.body, ids, lengths, self.packed, self.pad_to)

    def from_hidden(self, x: torch.Tensor, layout: Layout, start: int = 0) -> torch.Tensor:
        """Class scores from hidden states.

        Args:
            x: (batch, tokens, emb_dim), what the first `start` blocks have made of the messages.
            layout: where the messages stand in it.

        Returns:
            logits (batch, n_classes)
        """
        return self.answer(self.vectors(x, layout, start))

    def vectors(self, x: torch.Tensor, layout: Layout, start: int = 0) -> torch.Tensor:
        """One vector a message, after the final LayerNorm: (batch, emb_dim). See `from_hidden`."""
        if self.pool == "mean":
            return layout.mean(self.all_tokens(x, layout, start))
        blocks = self.body.trf_blocks[start:]
        for block in blocks[:-1]:
            x = block(x, layout.attend)
        x = self.last_block(blocks[-1], x, layout) if len(blocks) else layout.last(x)
        return self.body.final_norm(x).flatten(0, 1)

    def all_tokens(self, x: torch.Tensor, layout: Layout, start: int = 0) -> torch.Tensor:
        """Every token after the final LayerNorm, in the shape of `x`. See `from_hidden`."""
        return read_all(self.body, x, layout, start)

    def pooled(self, x: torch.Tensor, layout: Layout) -> torch.Tensor:
        """One vector a message from what `all_tokens` gives: (batch, emb_dim)."""
        return layout.mean(x) if self.pool == "mean" else layout.last(x).flatten(0, 1)

    def answer(self, vectors: torch.Tensor) -> torch.Tensor:
        """(batch, emb_dim) -> logits (batch, n_classes)."""
        # The body may be kept in bfloat16, the head is not.
        return self.head(vectors.to(next(self.head.parameters(), vectors).dtype))
