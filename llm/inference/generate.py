"""Text from a language model: one token at a time, each chosen from the model's scores.

A key/value cache spares the work of looking at the whole text again for each new token: a token's
keys and values never change, because no token looks ahead, so they are kept.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from llm.model.attention import causal
from llm.model.gpt import GPTModel
from llm.utils.errors import InputError


class LayerCache:
    """Keys and values of all tokens so far, of one block: an `attend` for its attention."""

    def __init__(self):
        self.keys: torch.Tensor | None = None  # (batch, n_heads, tokens, head_dim)
        self.values: torch.Tensor | None = None

    def __call__(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        dropout_p: float = 0.0,
    ) -> torch.Tensor:
        """New tokens, (batch, n_heads, new, head_dim), look at all earlier ones and are kept."""
        if self.keys is None:
            self.keys, self.values = keys, values
            return causal(queries, keys, values, dropout_p)
        self.keys = torch.cat([self.keys, keys], dim=2)
        self.values = torch.cat([self.values, values], dim=2)
        new, seen, mask = queries.shape[2], self.keys.shape[2], None
        if new > 1:  # new token i looks at all that was cached, and at new ones up to i
            mask = torch.ones(new, seen, dtype=torch.bool, device=keys.device).tril(seen - new)
        return F.scaled_dot_product_attention(
            queries, self.keys, self.values, attn_mask=mask, dropout_p=dropout_p
        )

    def crop(self, tokens: int) -> None:
        """Forget all but the first tokens."""
        if self.keys is not None:
            self.keys, self.values = self.keys[:, :, :tokens], self.values[:, :, :tokens]


class KeyValueCache:
    """One LayerCache a block; its length is the number of tokens the model has read."""

    def __init__(self, n_layers: int):
        self.layers = [LayerCache() for _ in range(n_layers)]

    def __len__(self) -> int:
        keys = self.layers[0].keys
        return 0 if keys is None else keys.shape[-2]

    def crop(self, tokens: int) -> None:
        """Forget all but the first tokens."""
        for layer in self.layers:
            layer.crop(tokens)


def next_token_probabilities(
    logits: torch.Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> torch.Tensor:
    """What a token is drawn from.

    Args:
        logits: (batch, vocab_size), the model's scores.
        temperature: divides the scores: below 1 the likely get likelier, above 1 less so. 0 leaves
            the likeliest token alone (greedy).
        top_k: only the k likeliest tokens remain (Fan et al. 2018, section 5.1).
        top_p: only the likeliest tokens remain whose probabilities reach p together, the one that
            reaches it included (Holtzman et al. 2020, "nucleus sampling", section 3.1).

    Returns:
        (batch, vocab_size), each row sums to 1.

    Raises:
        InputError: a setting out of its range.
    """
    if not 0 <= temperature < float("inf"):
        raise InputError(f"temperature must be a number of at least 0, not {temperature}")
    if top_k is not None and top_k < 1:
        raise InputError(f"top-k must be at least 1, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"top-p must be above 0 and at most 1, not {top_p}")
    if temperature == 0:
        likeliest = logits.argmax(-1, keepdim=True)  # (batch, 1)
        return torch.zeros_like(logits).scatter(-1, likeliest, 1.0)
    scores = (logits - logits.amax(-1, keepdim=True)) / temperature  # at most 0: no overflow
    order = scores.sort(dim=-1, descending=True)
    probabilities = torch.softmax(order.values, dim=-1)  # (batch, vocab_size), falling
    if top_k is not None:
        probabilities[:, top_k:] = 0
        probabilities /= probabilities.sum(-1, keepdim=True)
    if top_p is not None:
        before = probabilities.cumsum(-1) - probabilities  # of all tokens that are likelier
        probabilities = probabilities.masked_fill(before >= top_p, 0)
        probabilities /= probabilities.sum(-1, keepdim=True)
    return torch.zeros_like(logits).scatter(-1, order.indices, probabilities)


@torch.no_grad()
def stream(
    model: GPTModel,
    ids: torch.Tensor,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: int | None = None,
    seed: int | None = None,
    use_cache: bool = True,
    given: torch.Tensor | None = None,
) -> Iterator[torch.Tensor]:
    """New tokens one by one, each (batch,): see `generate`, which collects them.

    Args:
        given: (batch, some) tokens that are to come first, -1 where a row's are free to choose.
            `continue_each` feeds the longer prompts of a batch through it.
    """
    if ids.dim() != 2 or ids.shape[1] == 0:
        raise InputError("there is nothing to continue: the prompt has no tokens")
    context = model.config.context_length
    generator = None
    if seed is not None:
        generator = torch.Generator(device=ids.device).manual_seed(seed)
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    cache, new = KeyValueCache(model.config.n_layers), ids
    for step in range(max_new_tokens):
        if not use_cache or len(cache) + new.shape[1] > context:
            # The text has outgrown the context. What remains of it moves to other positions, so
            # what was cached holds no more, and the last `context` tokens are read anew.
            cache, new = KeyValueCache(model.config.n_layers), ids[:, -context:]
        hidden = model.hidden_states(new, cache)  # (batch, new_tokens, emb_dim)
        logits = model.logits(hidden[:, -1])  # (batch, vocab_size): only the last one's are needed
        chances = next_token_probabilities(logits.float(), temperature, top_k, top_p)
        if temperature == 0:
            new = chances.argmax(-1, keepdim=True)  # (batch, 1)
        else:
            new = torch.multinomial(chances, 1, generator=generator)
        free = torch.ones_like(done)
        if given is not None and step < given.shape[1]:
            free = given[:, step] < 0
            new = torch.where(free[:, None], new, given[:, step, None])
        if stop is not None:
            new = new.masked_fill(done[:, None], stop)
            done |= free & (new[:, 0] == stop)
        ids = torch.cat([ids, new], dim=1)
        yield new[:, 0]
        if done.all():
            return


def generate(model: GPTModel, ids: torch.Tensor, max_new_tokens: int, **settings) -> torch.Tensor:
    """Continue texts.

    Args:
        model: in evaluation mode, or dropout will act.
        ids: (batch, tokens), prompts of the same length. Of a text longer than the context the
            model sees the last `context_length` tokens.
        max_new_tokens: fewer come where every row has come to `stop`.
        settings: `temperature` (0, the default, is greedy), `top_k`, `top_p` as in
            `next_token_probabilities`; `stop`, a token that ends a text, such as `eot_id`; `seed`
            of the draws; `use_cache`.

    Returns:
        (batch, tokens + new tokens). After its `stop` a row is filled with `stop`.

    Raises:
        InputError: an empty prompt, or a setting out of its range.
    """
    new = list(stream(model, ids, max_new_tokens, **settings))
    return torch.cat([ids, *(token[:, None] for token in new)], dim=1)


def continue_each(
    model: GPTModel, prompts: Sequence[list[int]], max_new_tokens: int, stop: int, **settings
) -> list[list[int]]:
    """Continue prompts of different lengths in one batch.

    All begin at position 0 and grow together, so nothing is padded: while a row still has tokens
    of its prompt, these are read and what the model would have said is not listened to.

    Args:
        prompts: token ids, at least one each.
        max_new_tokens: of each row, after its own prompt.
        stop: the token that ends a text.
        settings: as in `generate`. A draw depends on the whole batch; greedy text does not.

    Returns:
        the new tokens of each row, up to its `stop`, which is left out.

    Raises:
        InputError: an empty prompt, or a setting out of its range.
    """
    if not prompts:
        return []
    device = model.tok_emb.weight.device
    lengths = [len(prompt) for prompt in prompts]
    shortest, longest = min(lengths), max(lengths)
    padded = [prompt + [-1] * (longest - len(prompt)) for prompt in prompts]
    rows = torch.tensor(padded, device=device).view(len(prompts), longest)
    steps = longest - shortest + max_new_tokens
    first, given = rows[:, :shortest], rows[:, shortest:]
    tokens = stream(model, first, steps, stop=stop, given=given, **settings)
    new = torch.stack(list(tokens), dim=1).tolist()  # what follows the shortest prompt in each row
    found = []
    for row, length in zip(new, lengths):
        row = row[length - shortest :][:max_new_tokens]
        found.append(row[: row.index(stop)] if stop in row else row)
    return found


def write_documents(
    model: GPTModel, eot_id: int, count: int, max_new_tokens: int, seed: int = 0, **settings
) -> list[list[int]]:
    """Let a model write whole documents, each from the end-of-text token alone.

    Args:
        eot_id: the token that documents begin after and end with.
        count: how many; a hundred at a time, which bounds the cache.
        max_new_tokens: of each document.
        seed: of the draws.
        settings: as in `generate`; without a `temperature` the model's own probabilities, 1.

    Returns:
        the tokens of each, without the end-of-text token.
    """
    settings = {"temperature": 1.0, **settings}
    found: list[list[int]] = []
    while len(found) < count:
        starts = [[eot_id]] * min(100, count - len(found))
        draw = seed * 1_000_003 + len(found)
        found += continue_each(model, starts, max_new_tokens, eot_id, seed=draw, **settings)
    return found
