"""The classifier reads the last real token, whatever a message is batched with."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import TINY, hf_config, in_hf_names, random_ids, randomise

from llm.model.classifier import GPTClassifier
from llm.model.config import GPTConfig
from llm.utils.errors import InputError

LAYOUTS = pytest.mark.parametrize("packed", [True, False], ids=["packed", "rows"])


def classifier(packed=None, dtype=torch.float64, config=TINY, n_classes=2) -> GPTClassifier:
    model = GPTClassifier(config, n_classes)
    randomise(model)
    model.packed = packed
    return model.to(dtype).eval()


def batch(messages, padding=0, width=None):
    lengths = torch.tensor([len(message) for message in messages])
    ids = torch.full((len(messages), width or int(lengths.max())), padding)
    for row, message in zip(ids, messages, strict=True):
        row[: len(message)] = torch.as_tensor(message)
    return ids, lengths


def messages_of(lengths, vocab=TINY.vocab_size):
    return [random_ids(TINY, 1, n, seed=i)[0] % vocab for i, n in enumerate(lengths)]


@LAYOUTS
@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6), data=st.data())
def test_a_message_is_answered_alike_alone_and_in_any_batch(packed, lengths, data):
    model, messages = classifier(packed), messages_of(lengths)
    alone = torch.cat([model(*batch([message])) for message in messages])
    width = data.draw(st.integers(max(lengths), TINY.context_length))
    padding = data.draw(st.integers(0, TINY.vocab_size - 1))
    order = data.draw(st.permutations(range(len(lengths))))
    together = model(*batch([messages[i] for i in order], padding, width))
    torch.testing.assert_close(together, alone[order], atol=1e-10, rtol=0)


@LAYOUTS
def test_what_the_padding_says_does_not_matter(packed):
    model, messages = classifier(packed), messages_of([3, 9, 1])
    answers = [model(*batch(messages, padding)) for padding in (0, 17, TINY.vocab_size - 1)]
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


@LAYOUTS
def test_a_message_may_hold_and_end_with_the_end_of_text_token(packed):
    """Token 50256 pads GPT-2's batches everywhere else; here it is a token like any other."""
    config = GPTConfig(context_length=8, emb_dim=8, n_heads=2, n_layers=2)
    model, end = classifier(packed, config=config), 50256
    texts = [[5, end, 7], [5, end], [5, end, end], [5]]
    alone = torch.cat([model(*batch([text])) for text in texts])
    together = model(*batch(texts, padding=end, width=8))
    torch.testing.assert_close(together, alone, atol=1e-10, rtol=0)
    assert len({tuple(row) for row in together.tolist()}) == 4  # none is taken for padding


def test_both_layouts_and_the_computation_of_all_tokens_agree():
    messages = messages_of([5, 2, 11])
    answers = [classifier(packed)(*batch(messages)) for packed in (True, False)]
    model = classifier()
    for i, message in enumerate(messages):
        hidden = model.body.hidden_states(message[None])  # every token through every layer
        expected = model.head(hidden[0, -1])
        for answer in answers:
            torch.testing.assert_close(answer[i], expected, atol=1e-10, rtol=0)


@LAYOUTS
def test_cutting_the_body_in_two_changes_nothing(packed):
    model, (ids, lengths) = classifier(packed), batch(messages_of([5, 2, 11]))
    x, layout = model.embed(ids, lengths)
    for stop, block in enumerate(model.body.trf_blocks, start=1):
        x = block(x, layout.attend)
        answer = model.from_hidden(x, layout, start=stop)
        torch.testing.assert_close(answer, model(ids, lengths), atol=1e-10, rtol=0)


def test_gradients_do_not_depend_on_the_layout():
    ids, lengths = batch(messages_of([5, 2, 11]))
    gradients = []
    for packed in (True, False):
        model = classifier(packed)
        torch.nn.functional.cross_entropy(model(ids, lengths), torch.tensor([0, 1, 1])).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], atol=1e-10, rtol=0)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_equals_transformers_with_the_same_weights(dtype, tolerance):
    from transformers import GPT2ForSequenceClassification

    model, pad = classifier(dtype=dtype, n_classes=3), TINY.vocab_size - 1
    ids, lengths = batch(messages_of([5, 2, 11], vocab=pad), padding=pad)
    config = hf_config(TINY, num_labels=3, pad_token_id=pad)
    twin = GPT2ForSequenceClassification(config).to(dtype).eval()
    state = {name: t.clone() for name, t in in_hf_names(model.body.state_dict()).items()}
    twin.load_state_dict(state | {"score.weight": model.head.weight})
    expected = twin(ids).logits + model.head.bias  # theirs has no bias
    torch.testing.assert_close(model(ids, lengths), expected, atol=tolerance, rtol=tolerance)


def test_the_lessons_count_of_parameters():
    """124,439,808 of GPT-2 and 2 * 768 + 2 of the head."""
    with torch.device("meta"):
        model = GPTClassifier(GPTConfig())
    assert sum(p.numel() for p in model.parameters()) == 124_441_346


@LAYOUTS
def test_a_row_longer_than_the_context_is_bad_input(packed):
    model = classifier(packed)
    with pytest.raises(InputError, match="25 tokens does not fit into the context of 24"):
        model(random_ids(TINY, 1, 25), torch.tensor([3]))


def test_one_block_and_one_token():
    model = classifier(config=replace(TINY, n_layers=1))
    answers = model(*batch([[1], [2]]))
    assert answers.shape == (2, 2)
    assert not torch.equal(answers[0], answers[1])
