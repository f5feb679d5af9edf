"""Adapters that write: text in one voice, in several in turn, and several voices in one batch.

Any adapter can write, one that tells messages apart too: its body is a language model still. So
can the base alone, under the name None. A text begins after the end-of-text token, as documents do
in training.

Keys and values that were kept belong to the adapter that made them: another has other W_key and
W_value. So each turn reads the text so far anew, once, and keeps its own from there on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from llm.data.batching import collate, sorted_batches
from llm.data.documents import encode_documents
from llm.inference.adapters import Adapters
from llm.inference.generate import continue_each, generate, stream
from llm.inference.log_probabilities import row_log_probabilities
from llm.utils.errors import InputError


def write(adapters: Adapters, prompt: str, max_new_tokens: int = 100, **settings) -> str:
    """Continue a text with the adapter in use, or the base where there is none.

    Args:
        settings: `temperature`, `top_k`, `top_p`, `seed`, `use_cache`, as in
            `llm.inference.generate.generate`.

    Returns:
        what follows the prompt.
    """
    [text] = write_in_turns(adapters, prompt, [(adapters.in_use, max_new_tokens)], **settings)
    return text


def write_in_turns(
    adapters: Adapters, prompt: str, turns: Sequence[tuple[str | None, int]], **settings
) -> list[str]:
    """Continue a text with one adapter, go on with the next, and so on.

    Args:
        turns: (an adapter's name, tokens it writes at most). A turn ends early where its voice
            ends the text; the next goes on from there.

    Returns:
        what each turn wrote; which adapter is in use stays as it is.
    """
    tokenizer, before = adapters.tokenizer, adapters.in_use
    device = adapters.model.body.tok_emb.weight.device
    ids = torch.tensor([[tokenizer.eot_id, *tokenizer.encode(prompt)]], device=device)
    texts = []
    try:
        for name, tokens in turns:
            adapters.use(name)
            body = adapters.model.body
            longer = generate(body, ids, tokens, stop=tokenizer.eot_id, **settings)
            new = longer[:, ids.shape[1] :]
            new = new[:, new[0] != tokenizer.eot_id]
            texts.append(tokenizer.decode(new[0].tolist()))
            ids = torch.cat([ids, new], dim=1)
    finally:
        adapters.use(before)
    return texts


@dataclass(frozen=True)
class Continuation:
    """What follows a prompt, as far as it is written."""

    text: str
    ended: bool  # by its voice, with the end-of-text token


def continuations(
    adapters: Adapters,
    prompt: str,
    names: Sequence[str | None],
    max_new_tokens: int = 100,
    **settings,
) -> Iterator[dict[str | None, Continuation]]:
    """Continue a prompt in several voices at a time, a token each in turn: to be watched.

    For a token an adapter is switched to, and back: that costs next to nothing. Keys and values of
    each voice are kept by themselves, so each writes what `write` lets it write alone, and between
    two steps the adapters are free for other use.

    Args:
        names: adapters' names, None for the base.
        settings: as in `write`.

    Yields:
        how far each has come, max_new_tokens times, or until all have ended their text.
    """
    tokenizer, body = adapters.tokenizer, adapters.model.body
    ids = torch.tensor(
        [[tokenizer.eot_id, *tokenizer.encode(prompt)]], device=body.tok_emb.weight.device
    )
    steps = {
        name: stream(body, ids, max_new_tokens, stop=tokenizer.eot_id, **settings) for name in names
    }
    written: dict[str | None, list[int]] = {name: [] for name in names}
    for _ in range(max_new_tokens):
        before = adapters.in_use
        try:
            for name, step in steps.items():
                if tokenizer.eot_id not in written[name]:
                    adapters.use(name)
                    written[name] += next(step).tolist()
        finally:
            adapters.use(before)
        ended = {name: tokenizer.eot_id in new for name, new in written.items()}
        yield {
            name: Continuation(tokenizer.decode(new[: len(new) - ended[name]]), ended[name])
            for name, new in written.items()
        }
        if all(ended.values()):
            return


def write_mixed(
    adapters: Adapters,
    prompts: Sequence[str],
    names: Sequence[str | None],
    max_new_tokens: int = 100,
    **settings,
) -> list[str]:
    """Continue each prompt in its own voice, all in one batch.

    Args:
        names: an adapter's name a prompt, None for the base.
        settings: as in `write`.

    Returns:
        what follows each prompt, in their order.
    """
    if len(prompts) != len(names):
        raise InputError(f"{len(prompts)} prompts and {len(names)} names of adapters")
    order = _by_voice(names)
    tokenizer = adapters.tokenizer
    starts = [[tokenizer.eot_id, *tokenizer.encode(prompts[place])] for place in order]
    groups = _groups(adapters, [names[place] for place in order], [1] * len(order))
    with adapters.side_by_side(*groups) as model:
        new = continue_each(model.body, starts, max_new_tokens, tokenizer.eot_id, **settings)
    texts = dict(zip(order, map(tokenizer.decode, new)))
    return [texts[place] for place in range(len(prompts))]


def log_probabilities_mixed(
    adapters: Adapters, texts: Sequence[str], names: Sequence[str | None], token_budget: int = 4096
) -> torch.Tensor:
    """log p of each text in its own voice, as of a whole document, all voices in one forward pass.

    Args:
        names: an adapter's name a text, None for the base.
        token_budget: tokens in a forward pass at most, padding included.

    Returns:
        (texts,) in nats, float64, on the CPU, in the order of `texts`.
    """
    if len(texts) != len(names):
        raise InputError(f"{len(texts)} texts and {len(names)} names of adapters")
    config, device = adapters.model.config, adapters.model.body.tok_emb.weight.device
    documents = encode_documents(adapters.tokenizer, texts, config.context_length)
    lengths = [len(ids) for ids in documents.pieces.ids]
    found = torch.zeros(len(texts), dtype=torch.float64)
    for some in sorted_batches(lengths, token_budget):
        spoken = [names[documents.document[index]] for index in some]
        indices = [some[place] for place in _by_voice(spoken)]
        owners = [documents.document[index] for index in indices]
        tokens = [lengths[index] for index in indices]
        groups = _groups(adapters, [names[owner] for owner in owners], tokens)
        with adapters.side_by_side(*groups) as model:
            batch = collate(documents.pieces, indices, device)
            log_p = row_log_probabilities(model.body, batch)
        found.index_add_(0, torch.tensor(owners), log_p.cpu())
    return found


def _by_voice(names: Sequence[str | None]) -> list[int]:
    """Places in an order that puts each voice's side by side."""
    return sorted(range(len(names)), key=lambda place: str(names[place]))


def _groups(
    adapters: Adapters, names: Sequence[str | None], tokens: Sequence[int]
) -> tuple[list, list[int], list[int]]:
    """What `Adapters.side_by_side` takes, for rows in the order of `_by_voice`."""
    voices = list(dict.fromkeys(names))
    return (
        [None if voice is None else adapters[voice] for voice in voices],
        [sum(name == voice for name in names) for voice in voices],
        [sum(n for name, n in zip(names, tokens) if name == voice) for voice in voices],
    )
