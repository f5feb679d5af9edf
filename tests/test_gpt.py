"""The whole model against transformers' GPT-2 with the same random weights."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from twins import TINIES, TINY, hf_config, hf_twin, in_hf_names, random_ids, random_model

from llm.model.config import PRESETS, GPTConfig
from llm.model.gpt import GPTModel
from llm.utils.errors import InputError

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.fixture(scope="module", params=TOLERANCE, ids=["float32", "float64"])
def pair(request):
    model = random_model(dtype=request.param)
    return model, hf_twin(model), TOLERANCE[request.param]


@pytest.mark.parametrize("tokens", range(1, TINY.context_length + 1))
def test_logits_and_every_hidden_state_equal_transformers(pair, tokens):
    model, twin, tolerance = pair
    ids = random_ids(TINY, 2, tokens, seed=tokens)
    with torch.no_grad():
        expected = twin(ids, output_hidden_states=True)
        x = model.embed(ids, torch.arange(tokens))
        hidden = [x]
        for block in model.trf_blocks:
            hidden.append(x := block(x))
        # transformers lists the last block's output after the final LayerNorm only.
        hidden[-1] = model.final_norm(hidden[-1])
        for ours, theirs in zip(hidden, expected.hidden_states, strict=True):
            torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(model(ids), expected.logits, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("tokens", [1, 2, 13, TINY.context_length])
def test_every_gradient_equals_transformers(pair, tokens):
    model, twin, tolerance = pair
    ids, targets = random_ids(TINY, 3, tokens), random_ids(TINY, 3, tokens, seed=1)
    for network in (model, twin):
        network.zero_grad()
        output = network(ids)
        logits = output if torch.is_tensor(output) else output.logits
        F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    ours = in_hf_names({name: p.grad for name, p in model.named_parameters()})
    theirs = {name: p.grad for name, p in twin.named_parameters()}
    assert set(ours) == set(theirs)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("preset", TINIES)
def test_the_other_shapes_scaled_down(preset):
    config = TINIES[preset]
    model = random_model(config, dtype=torch.float64)
    ids = random_ids(config, 2, config.context_length)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), hf_twin(model)(ids).logits, atol=1e-10, rtol=0)


def test_the_real_124m_shape():
    from transformers import GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPTModel(GPTConfig()).eval()
    with torch.device("meta"):
        twin = GPT2LMHeadModel(hf_config(GPTConfig())).eval()
    state = in_hf_names(model.state_dict())
    state["lm_head.weight"] = state["transformer.wte.weight"]
    twin.load_state_dict(state, assign=True)
    ids = random_ids(GPTConfig(), 1, 12)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), twin(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "preset, parameters",
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_parameter_counts_of_the_published_models(preset, parameters):
    """As `GPT2LMHeadModel(config).num_parameters()` counts them, the tied embedding once."""
    from transformers import GPT2LMHeadModel

    with torch.device("meta"):
        model, theirs = GPTModel(PRESETS[preset]), GPT2LMHeadModel(hf_config(PRESETS[preset]))
    assert sum(p.numel() for p in model.parameters()) == parameters == theirs.num_parameters()


def test_fresh_weights_have_gpt2s_spread():
    config = GPTConfig(500, 64, 128, 4, 8)
    torch.manual_seed(0)
    model = GPTModel(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "shift")):
            assert parameter.eq(0).all(), name
        elif name.endswith("scale"):
            assert parameter.eq(1).all(), name
        else:
            narrow = name.endswith(("out_proj.weight", "fc2.weight"))
            expected = 0.02 / 4 if narrow else 0.02  # sqrt(2 * 8 layers) = 4
            assert abs(parameter.std().item() / expected - 1) < 0.05, name


def test_the_first_loss_is_that_of_guessing():
    torch.manual_seed(0)
    model = GPTModel(GPTConfig(500, 64, 128, 4, 2)).eval()
    ids, targets = random_ids(model.config, 8, 64), random_ids(model.config, 8, 64, seed=1)
    loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten()).item()
    assert abs(loss - torch.tensor(500.0).log().item()) < 0.1


def test_a_text_longer_than_the_context_is_bad_input():
    model = random_model()
    with pytest.raises(InputError, match="25 tokens do not fit into the context of 24"):
        model(random_ids(TINY, 1, TINY.context_length + 1))


def test_no_dropout_when_evaluating():
    model = GPTModel(replace(TINY, drop_rate=0.3))
    ids = random_ids(TINY, 1, 8)
    model.train()
    assert not torch.allclose(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))
