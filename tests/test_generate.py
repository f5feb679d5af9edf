"""Generating: the cache changes nothing, and transformers chooses the same tokens."""

import pytest
import torch
from twins import TINY, hf_twin, random_ids, random_model

from llm.inference.generate import KeyValueCache, generate, next_token_probabilities, stream
from llm.utils.errors import InputError

MODEL = random_model(dtype=torch.float64)
PROMPT = random_ids(TINY, 3, 5)


@pytest.mark.parametrize("chunks", [[9], [1] * 9, [4, 1, 4], [2, 7]])
def test_reading_in_pieces_with_a_cache_gives_the_same_logits(chunks):
    ids = random_ids(TINY, 2, sum(chunks))
    cache = KeyValueCache(TINY.n_layers)
    pieces = []
    for piece in ids.split(chunks, dim=1):
        pieces.append(MODEL(piece, cache))
        assert len(cache) == sum(piece.shape[1] for piece in pieces)
    torch.testing.assert_close(torch.cat(pieces, 1), MODEL(ids), atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 1.0, "seed": 1},
        {"temperature": 0.7, "top_k": 5, "seed": 2},
        {"temperature": 1.5, "top_p": 0.8, "seed": 3},
    ],
    ids=["greedy", "sampled", "top-k", "top-p"],
)
@pytest.mark.parametrize("tokens", [8, TINY.context_length + 6])  # the second outgrows the context
def test_with_and_without_the_cache_the_same_text(settings, tokens):
    cached = generate(MODEL, PROMPT, tokens, **settings)
    again = generate(MODEL, PROMPT, tokens, use_cache=False, **settings)
    assert torch.equal(cached, again)
    assert cached.shape == (3, 5 + tokens)
    assert torch.equal(cached[:, :5], PROMPT)


def test_greedy_equals_transformers():
    twin = hf_twin(MODEL)
    for length in (1, 5, 11):
        prompt = random_ids(TINY, 3, length, seed=length)
        new = TINY.context_length - length
        expected = twin.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert torch.equal(generate(MODEL, prompt, new), expected)


def test_after_its_stop_token_a_row_is_filled_with_it_as_in_transformers():
    free = generate(MODEL, PROMPT, 10)
    stop = int(free[0, 5 + 3])  # so row 0 stops after 4 tokens at the latest
    expected = hf_twin(MODEL).generate(
        PROMPT,
        attention_mask=torch.ones_like(PROMPT),
        max_new_tokens=10,
        do_sample=False,
        eos_token_id=stop,
        pad_token_id=stop,
    )
    assert torch.equal(generate(MODEL, PROMPT, 10, stop=stop), expected)
    alone = generate(MODEL, PROMPT[:1], 10, stop=stop)
    assert alone.shape[1] <= 5 + 4
    assert alone[0, -1] == stop


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k, top_p", [(None, None), (7, None), (None, 0.6), (9, 0.8), (500, 1)])
def test_the_chances_equal_transformers(temperature, top_k, top_p):
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = MODEL(PROMPT)[:, -1] * 3
    scores = TemperatureLogitsWarper(temperature)(None, logits)
    scores = TopKLogitsWarper(top_k)(None, scores) if top_k else scores
    scores = TopPLogitsWarper(float(top_p))(None, scores) if top_p else scores
    found = next_token_probabilities(logits, temperature, top_k, top_p)
    torch.testing.assert_close(found, torch.softmax(scores, -1), atol=1e-12, rtol=0)


def test_the_chances_by_hand():
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()

    def chances(**settings):
        return [
            round(value, 4) for value in next_token_probabilities(logits, **settings)[0].tolist()
        ]

    assert chances() == [0.1, 0.5, 0.15, 0.25]
    assert chances(temperature=0) == [0, 1, 0, 0]
    assert chances(top_k=2) == [0, 0.6667, 0, 0.3333]
    assert chances(top_p=0.5) == [0, 1, 0, 0]  # 0.5 reaches 0.5 alone
    assert chances(top_p=0.6) == [0, 0.6667, 0, 0.3333]
    assert chances(temperature=0.5)[1] == round(0.25 / (0.01 + 0.25 + 0.0225 + 0.0625), 4)
    assert chances(temperature=1e-42) == [0, 1, 0, 0]  # no overflow on the way to greedy


def test_draws_come_as_often_as_their_chances():
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    chances = next_token_probabilities(logits).repeat(20000, 1)
    drawn = torch.multinomial(chances, 1, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn[:, 0], minlength=4) / len(drawn)
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.5, 0.15, 0.25]), atol=0.02, rtol=0)


def test_same_seed_same_text_and_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, second, other = (generate(MODEL, PROMPT, 9, temperature=1, seed=s) for s in (4, 4, 5))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_stream_gives_the_tokens_of_generate_one_by_one():
    new = torch.stack(list(stream(MODEL, PROMPT, 6)), dim=1)
    assert torch.equal(new, generate(MODEL, PROMPT, 6)[:, 5:])


def test_a_prompt_longer_than_the_context_is_read_from_its_end():
    long = random_ids(TINY, 2, TINY.context_length + 9)
    expected = generate(MODEL, long[:, -TINY.context_length :], 3)
    assert torch.equal(generate(MODEL, long, 3)[:, -3:], expected[:, -3:])


def test_no_gradients_are_kept():
    assert not any(token.requires_grad for token in stream(MODEL, PROMPT, 2))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 1.0, "top_k": 0}, "top-k"),
        ({"temperature": 1.0, "top_p": 0.0}, "top-p"),
        ({"temperature": 1.0, "top_p": 1.1}, "top-p"),
    ],
)
def test_settings_out_of_range_are_bad_input(settings, message):
    with pytest.raises(InputError, match=message):
        generate(MODEL, PROMPT, 1, **settings)


def test_an_empty_prompt_is_bad_input():
    with pytest.raises(InputError, match="no tokens"):
        generate(MODEL, PROMPT[:, :0], 1)
