import pytest
import torch

from llm.data.batching import collate
from llm.lora.inject import lora_layers
from llm.lora.methods import METHODS, LoRASettings, apply_method
from llm.model.classifier import GPTClassifier
from llm.model.layouts import Packed
from llm.training.classification import hidden_states
from llm.utils.errors import InputError

TRAINED = {
    "full": lambda name: True,
    "last_block": lambda name: name.startswith(("body.trf_blocks.2", "body.final_norm", "head")),
    "head": lambda name: name.startswith("head"),
    "lora": lambda name: name.endswith(("lora.A", "lora.B")) or name.startswith("head"),
}


@pytest.mark.parametrize("method", METHODS)
def test_each_method_trains_what_it_says(tiny, method):
    model = GPTClassifier(tiny)
    apply_method(model, method)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == TRAINED[method](name), name


@pytest.mark.parametrize("method", METHODS)
def test_gradients_arrive_exactly_where_they_should(tiny, messages, method):
    model = GPTClassifier(tiny)
    apply_method(model, method)
    batch = collate(messages, range(10))
    model(batch.ids, batch.lengths).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == TRAINED[method](name), name


def test_methods_start_from_the_same_answers(tiny, messages):
    batch = collate(messages, range(10))
    answers = []
    for method in METHODS:
        torch.manual_seed(3)
        model = GPTClassifier(tiny)
        apply_method(model, method)
        with torch.no_grad():  # in training, attention rounds otherwise where no gradient passes
            answers.append(model(batch.ids, batch.lengths))
    assert all(torch.equal(answer, answers[0]) for answer in answers)


def test_lora_settings_reach_the_layers(tiny):
    model = GPTClassifier(tiny)
    apply_method(model, "lora", LoRASettings(3, 12, ["W_query", "fc2"], 0.25))
    layers = lora_layers(model)
    assert {name.rpartition(".")[2] for name in layers} == {"W_query", "fc2"}
    assert len(layers) == 2 * tiny.n_layers
    for layer in layers.values():
        assert (layer.lora.rank, layer.lora.scale, layer.lora.dropout.p) == (3, 4.0, 0.25)


def test_an_unknown_method_is_an_input_error(tiny):
    with pytest.raises(InputError, match="'prefix'; choose from full, last_block, head, lora"):
        apply_method(GPTClassifier(tiny), "prefix")


@pytest.mark.parametrize("start", [1, 2, 3])
def test_the_stored_prefix_is_what_the_blocks_make(tiny, messages, start):
    model = GPTClassifier(tiny).eval()
    hidden = hidden_states(model, messages, start)
    indices = [4, 0, 17, 9]
    batch = collate(messages, indices)
    lengths = torch.tensor([len(hidden[index]) for index in indices])
    x = torch.cat([hidden[index] for index in indices])[None]  # (1, all_tokens, emb_dim)
    if start == tiny.n_layers:  # what the head reads is kept, one vector a message
        stored = model.answer(x[0])
    else:
        stored = model.from_hidden(x, Packed(lengths), start)
    torch.testing.assert_close(stored, model(batch.ids, batch.lengths), atol=1e-5, rtol=1e-5)
