"""GPTModel: embeddings, a stack of blocks, a last LayerNorm, and the words it predicts.

Source: Radford et al. 2019, section 2.3. The output layer shares its weights with the token
embedding (weight tying, Press and Wolf 2017), as in the released GPT-2.
"""

import math

import torch
from torch import nn

from llm.model.attention import causal
from llm.model.blocks import LayerNorm, TransformerBlock
from llm.model.config import GPTConfig
from llm.utils.errors import InputError


class GPTModel(nn.Module):
    """A GPT-2 language model with random weights; `llm.formats.base` fills in learned ones."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.tok_emb = _embedding(config.vocab_size, config.emb_dim)
        self.pos_emb = _embedding(config.context_length, config.emb_dim)
        self.drop_emb = nn.Dropout(config.drop_rate)
        self.trf_blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.n_layers))
        self.final_norm = LayerNorm(config.emb_dim)
        if self.tok_emb.weight.device.type != "meta":  # a meta tensor has a shape but no numbers
            self.apply(self._draw_weights)

    def forward(self, ids: torch.Tensor, cache=None) -> torch.Tensor:
        """Scores for the next token at every position.

        Args:
            ids: token ids (batch, tokens), at most `context_length` of them a row.
            cache: a `llm.inference.generate.KeyValueCache` when `ids` continue a text seen before.

        Returns:
            logits (batch, tokens, vocab_size)

        Raises:
            InputError: when the text is longer than the context.
        """
        return self.logits(self.hidden_states(ids, cache))

    def hidden_states(self, ids: torch.Tensor, cache=None) -> torch.Tensor:
        """(batch, tokens) -> (batch, tokens, emb_dim), after the final LayerNorm."""
        seen = len(cache) if cache is not None else 0
        if seen + ids.shape[1] > self.config.context_length:
            raise InputError(
                f"{seen + ids.shape[1]} tokens do not fit into the context of "
                f"{self.config.context_length}; cut the text"
            )
        positions = torch.arange(seen, seen + ids.shape[1], device=ids.device)
        x = self.embed(ids, positions)
        attends = cache.layers if cache is not None else [causal] * len(self.trf_blocks)
        for block, attend in zip(self.trf_blocks, attends, strict=True):
            x = block(x, attend)
        return self.final_norm(x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., emb_dim) -> (..., vocab_size): how well each token's embedding fits."""
        return hidden @ self.tok_emb.weight.T

    def embed(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """What the token is plus where it stands: (..., tokens) -> (..., tokens, emb_dim)."""
        return self.drop_emb(self.tok_emb(ids) + self.pos_emb(positions))

    def _draw_weights(self, module: nn.Module) -> None:
        """GPT-2's start: normal with std 0.02, narrower where a layer adds to the shortcut."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        if isinstance(module, TransformerBlock):
            # 2 * n_layers outputs add up on the shortcut; this keeps their sum's variance at 1.
            for linear in (module.att.out_proj, module.ff.fc2):
                nn.init.normal_(linear.weight, std=0.02 / math.sqrt(2 * self.config.n_layers))


def _embedding(rows: int, emb_dim: int) -> nn.Embedding:
    """An embedding without numbers yet, as `_draw_weights` draws its own.

    PyTorch's would be drawn in vain, and on the meta device that loads its compiler: two seconds.
    """
    return nn.Embedding(rows, emb_dim, _weight=torch.empty(rows, emb_dim))
