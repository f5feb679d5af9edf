import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.data.batching import (
    batch_indices,
    collate,
    encode_messages,
    sorted_batches,
    steps_per_epoch,
)
from llm.utils.errors import InputError


class Letters:
    """A tokenizer of one token a letter."""

    eot_id = 99

    def encode_batch(self, texts):
        return [[ord(letter) - 97 for letter in text] for text in texts]


def test_long_messages_are_cut_and_counted_and_empty_ones_get_a_token():
    encoded = encode_messages(Letters(), ["abcd", "", "abcde", "ab"], [1, 0, 1, 0], 4)
    assert encoded.ids == [[0, 1, 2, 3], [99], [0, 1, 2, 3], [0, 1]]
    assert encoded.cut == 1
    assert encoded.labels == [1, 0, 1, 0]
    assert encode_messages(Letters(), ["a"], None, 4).labels == [-1]


def test_collate_pads_right_and_carries_lengths(messages):
    batch = collate(messages, [3, 0, 5], width=22)
    assert batch.ids.shape == (3, 22)
    for row, length, index in zip(batch.ids, batch.lengths, [3, 0, 5], strict=True):
        assert row[:length].tolist() == messages.ids[index]
        assert not row[length:].any()
    assert batch.labels.tolist() == [messages.labels[index] for index in [3, 0, 5]]


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 5), st.integers(0, 3))
def test_every_epoch_visits_every_message_once_in_another_order(count, size, seed, epoch):
    steps = steps_per_epoch(count, size)
    seen = [batch_indices(count, size, epoch * steps + step, seed) for step in range(steps)]
    assert sorted(sum(seen, [])) == list(range(count))
    assert all(len(batch) == size for batch in seen[:-1])
    again = [batch_indices(count, size, epoch * steps + step, seed) for step in range(steps)]
    assert seen == again


def test_orders_differ_between_epochs_and_seeds():
    orders = {tuple(batch_indices(30, 30, step, seed)) for step in range(3) for seed in range(3)}
    assert len(orders) == 9


def test_no_messages_is_an_input_error():
    with pytest.raises(InputError, match="0 messages"):
        batch_indices(0, 8, 0, 0)


@given(st.lists(st.integers(1, 300), max_size=80), st.integers(1, 600))
def test_sorted_batches_hold_each_message_once_within_the_budget(lengths, budget):
    batches = list(sorted_batches(lengths, budget))
    assert sorted(sum(batches, [])) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or longest * len(batch) <= budget
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(lengths, reverse=True)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    batch_indices(10, 4, 0, 3)
    assert torch.equal(torch.rand(3), expected)
