"""QLoRA against LoRA on the dequantised base: the same numbers to the last bit, in fewer bytes."""

import copy
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llm.lora.fused import FusedLinearWithLoRA
from llm.lora.inject import (
    lora_layers,
    merge_and_unload,
    merged_state,
    replace_linear_with_lora,
    unmerge,
)
from llm.lora.layer import LinearWithLoRA, dense
from llm.lora.methods import apply_method
from llm.lora.quantize import NF4Weight, quantize_nf4
from llm.lora.quantized_linear import (
    KINDS,
    QuantizedLinear,
    dequantize_linears,
    quantize_linears,
    quantized_layers,
)
from llm.lora.settings import LoRASettings
from llm.model.classifier import GPTClassifier
from llm.model.config import GPTConfig
from llm.model.gpt import GPTModel
from llm.model.parameters import parameter_counts
from llm.training.memory import activation_memory, memory_account, passing_memory, static_memory
from llm.training.speed import recompute_all
from llm.utils.errors import InputError

CONFIG = GPTConfig(vocab_size=50, context_length=16, emb_dim=64, n_heads=2, n_layers=2)
IDS = torch.randint(0, 50, (4, 16), generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([16, 3, 9, 5])


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def twins(settings: LoRASettings, fast: bool) -> tuple[GPTClassifier, GPTClassifier]:
    """With LoRA layers in use: on W in codes, and on a plain W of the same numbers."""
    torch.manual_seed(0)
    model = GPTClassifier(CONFIG)
    plain = copy.deepcopy(model)
    apply_method(model, "lora", settings, fast)
    quantize_linears(plain, settings.quantize)
    dequantize_linears(plain)
    untold = LoRASettings(**{**vars(settings), "quantize": None})
    apply_method(plain, "lora", untold, fast)
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora.B, std=0.1)
    updates = {name: x for name, x in model.state_dict().items() if ".lora." in name}
    plain.load_state_dict(updates, strict=False)
    return model, plain


def gradients(model: nn.Module, dtype=None) -> dict[str, torch.Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
        answers = model(IDS, LENGTHS)
    answers.float().square().sum().backward()
    trained = model.named_parameters()
    return {"": answers} | {name: p.grad for name, p in trained if p.requires_grad}


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    "others",
    [{}, {"targets": ["W_query", "W_value"]}, {"targets": "all"}, {"dropout": 0.3}],
    ids=["blocks", "two", "all", "dropout"],
)
def test_answers_and_gradients_are_those_on_the_dequantised_base(kind, others, fast):
    model, plain = twins(LoRASettings(rank=2, alpha=4, quantize=kind, **others), fast)
    found = []
    for one in (model, plain):
        torch.manual_seed(1)  # of dropout
        found.append(gradients(one))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


def test_under_autocast_too(kind):
    model, plain = twins(LoRASettings(rank=2, alpha=4, quantize=kind), fast=True)
    ours, theirs = gradients(model, torch.bfloat16), gradients(plain, torch.bfloat16)
    assert ours[""].dtype == torch.bfloat16
    for name, gradient in ours.items():
        assert torch.equal(gradient, theirs[name]), name


def test_with_dora_too(kind):
    settings = LoRASettings(rank=2, alpha=4, variant="dora", quantize=kind)
    model, plain = twins(settings, fast=True)
    ours, theirs = gradients(model), gradients(plain)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], msg=name)


def test_attention_still_shares_its_products():
    model, _ = twins(LoRASettings(rank=2, alpha=4, quantize="nf4"), fast=True)
    layer = model.body.trf_blocks[0].att.W_query
    assert isinstance(layer, FusedLinearWithLoRA) and layer.fusible


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_the_product_and_its_gradient_are_those_of_the_dense_layer(kind, shape):
    torch.manual_seed(0)
    layer = QuantizedLinear(nn.Linear(5, 7), kind)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    W, b = layer.weight.dequantize().double(), layer.bias.double()
    torch.testing.assert_close(layer(x), F.linear(x, W, b))
    assert torch.autograd.gradcheck(layer, (x,))


def test_without_a_bias(kind):
    layer = QuantizedLinear(nn.Linear(5, 7, bias=False), kind)
    x = torch.randn(3, 5)
    assert torch.equal(layer(x), layer.dequantized()(x))


@pytest.mark.parametrize("fast", [False, True])
def test_no_dense_matrix_is_kept_for_the_backward_pass(kind, fast, monkeypatch):
    made = []
    type_ = type(KINDS[kind](torch.ones(2, 64)))
    dequantize = type_.dequantize

    def noted(self):
        weight = dequantize(self)
        alive = sum(matrix() is not None for matrix in made)
        made.append(weakref.ref(weight))
        assert alive <= 1  # that of the product before, which may not have been let go yet
        return weight

    monkeypatch.setattr(type_, "dequantize", noted)
    model, _ = twins(LoRASettings(rank=2, alpha=4, quantize=kind), fast)
    made.clear()
    loss = model(IDS, LENGTHS).square().sum()
    forward = len(made)
    assert forward == 12  # six layers a block
    assert not any(matrix() is not None for matrix in made)
    loss.backward()
    # Once more each. Query, key and value of the first block have no layer below to tell.
    assert len(made) - forward == 12 - 3
    assert not any(matrix() is not None for matrix in made)


def test_the_account_counts_codes_and_no_dense_weights(kind):
    model, plain = twins(LoRASettings(rank=2, alpha=4, quantize=kind), fast=True)
    ours, theirs = (
        memory_account(one, lambda one=one: one(IDS, LENGTHS).sum()) for one in (model, plain)
    )
    in_blocks = 2 * 12 * 64 * 64  # weights
    layers = quantized_layers(model).values()
    saved = 4 * in_blocks - sum(layer.weight.nbytes for layer in layers)
    assert theirs["weights"] - ours["weights"] == saved
    assert {**ours, "weights": 0} == {**theirs, "weights": 0}
    assert parameter_counts(model) == parameter_counts(plain)


def test_gpt2_takes_two_fifths_of_its_bytes_by_hand():
    """What is in codes shrinks eightfold; the embeddings, a third of GPT-2, stay."""
    with torch.device("meta"):
        model = GPTModel(GPTConfig())
        quantize_linears(model, "nf4")
    in_codes = 12 * 12 * 768 * 768  # 84.9 million weights
    scales = in_codes // 64
    offsets, second = (
        12 * 6,
        sum(12 * count * -(-size // (64 * 256)) for count, size in ((4, 768**2), (2, 4 * 768**2))),
    )
    codes = in_codes // 2 + scales + 4 * (offsets + second)
    rest = sum(p.numel() for p in model.parameters())
    assert rest == 124_439_808 - in_codes
    assert static_memory(model)["weights"] == codes + 4 * rest
    assert (codes + 4 * rest) / (4 * 124_439_808) == pytest.approx(0.4055, abs=1e-4)
    assert 8 * codes / in_codes == pytest.approx(4.127, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(32, 64), (7, 9)])
def test_the_numbers_of_a_product_are_rounded_once(kind, shape, dtype):
    weight = KINDS[kind](torch.randn(shape))
    assert torch.equal(weight.numbers(dtype), weight.dequantize().to(dtype))


def test_what_comes_and_goes_in_a_step_by_hand():
    """The largest matrix, 64 x 256, in full; and what a block keeps, which the account counts."""
    model, plain = twins(LoRASettings(rank=2, alpha=4, quantize="nf4"), fast=True)
    x = torch.zeros(2, 8, 64)
    assert passing_memory(plain, x, recomputed=False) == 0
    assert passing_memory(model, x, recomputed=False) == 4 * 64 * 256
    with torch.autocast("cpu", torch.bfloat16):
        assert passing_memory(model, x, recomputed=False) == 6 * 64 * 256
    block, x = model.body.trf_blocks[0], x.requires_grad_()
    kept = activation_memory(model, lambda: block(x).sum())
    recompute_all(model)
    assert passing_memory(model, x, recomputed=True) == kept + 4 * 64 * 256


def test_the_head_embeddings_and_norms_stay_as_they_are(kind):
    model = GPTClassifier(CONFIG)
    before = {name: p.clone() for name, p in model.named_parameters()}
    quantize_linears(model, kind)
    assert len(quantized_layers(model)) == 12
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
    gone = set(before) - {name for name, _ in model.named_parameters()}
    assert all(name.startswith("body.trf_blocks.") and name.endswith(".weight") for name in gone)


def test_nf4_is_doubly_quantised_in_blocks_of_64():
    linear = nn.Linear(96, 32)
    layer, alone = QuantizedLinear(linear, "nf4"), quantize_nf4(linear.weight, 64, double=True)
    assert isinstance(layer.weight, NF4Weight)
    assert torch.equal(layer.weight.dequantize(), alone.dequantize())


def test_only_what_is_trained_gets_a_gradient(kind):
    model = GPTClassifier(CONFIG)
    apply_method(model, "lora", LoRASettings(rank=2, quantize=kind))
    for name, parameter in model.named_parameters():
        trained = name.endswith(("lora.A", "lora.B")) or name.startswith("head.")
        assert parameter.requires_grad == trained, name


@pytest.mark.parametrize("fast", [False, True])
def test_merging_gives_a_plain_model_with_the_same_answers(kind, fast):
    model, plain = twins(LoRASettings(rank=2, alpha=4, quantize=kind), fast)
    model.eval(), plain.eval()
    answers = model(IDS, LENGTHS)
    state = merged_state(model)
    assert torch.equal(model(IDS, LENGTHS), answers)  # it stays as it is
    merge_and_unload(model)
    merge_and_unload(plain)
    assert not quantized_layers(model)
    torch.testing.assert_close(model(IDS, LENGTHS), answers)
    theirs = plain.state_dict()
    assert model.state_dict().keys() == state.keys() == theirs.keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, theirs[name]) and torch.equal(state[name], weight), name


def test_layers_without_an_adapter_become_plain_too(kind):
    model, _ = twins(LoRASettings(rank=2, targets=["fc1"], quantize=kind), fast=True)
    merge_and_unload(model)
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert len(linears) == 12 + 1 and not quantized_layers(model)


def test_a_merged_layer_can_be_unmerged(kind):
    layer = LinearWithLoRA(QuantizedLinear(nn.Linear(64, 32), kind), 2, 4)
    nn.init.normal_(layer.lora.B)
    x = torch.randn(5, 64)
    before, W = layer(x), dense(layer.linear)
    layer.merge()
    torch.testing.assert_close(layer(x), before)
    with pytest.raises(InputError):
        layer.merge()
    unmerge(layer)
    torch.testing.assert_close(dense(layer.linear), W)
    torch.testing.assert_close(layer(x), before)


def test_a_quantised_model_takes_lora_layers_like_any_other():
    model = GPTModel(CONFIG)
    quantize_linears(model, "int8")
    assert len(replace_linear_with_lora(model, 2, 4)) == 12


def test_codes_go_through_a_state_dict():
    model, other = GPTModel(CONFIG), GPTModel(CONFIG)
    for one in (model, other):
        quantize_linears(one, "nf4")
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(IDS), other(IDS))


def test_what_cannot_be_quantised_is_refused():
    model = GPTClassifier(CONFIG)
    for method in ("full", "last_block", "head"):
        with pytest.raises(InputError, match="only lora"):
            apply_method(model, method, LoRASettings(quantize="nf4"))
    with pytest.raises(InputError, match="nf4 or int8"):
        replace_linear_with_lora(model, 2, 4, quantize="fp4")
    with pytest.raises(InputError, match="choose one"):
        replace_linear_with_lora(model, 2, 4, init="pissa", quantize="nf4")
    assert not quantized_layers(model) and not lora_layers(model)
