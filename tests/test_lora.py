"""LoRA: its two promises (nothing changes at first, W never changes), its sums, and peft's."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from twins import TINY, hf_config, in_hf_names, random_ids, randomise

from llm.lora.fused import FusedLinearWithLoRA, fuse, fused_outputs
from llm.lora.fused_compiled import joined_lora_linears
from llm.lora.inject import (
    BLOCK_TARGETS,
    lora_layers,
    merge,
    merge_and_unload,
    merged_state,
    replace_linear_with_lora,
    unmerge,
)
from llm.lora.layer import LinearWithLoRA, LoRALayer
from llm.model.attention import MultiHeadAttention
from llm.model.classifier import GPTClassifier
from llm.model.config import PRESETS, GPTConfig
from llm.model.gpt import GPTModel
from llm.utils.errors import InputError

IDS = random_ids(TINY, 4, 9)
LENGTHS = torch.tensor([9, 4, 1, 6])
LABELS = torch.tensor([0, 1, 1, 0])


def classifier(dtype=torch.float32) -> GPTClassifier:
    model = GPTClassifier(TINY)
    randomise(model)
    return model.to(dtype)


def with_random_updates(model: nn.Module) -> nn.Module:
    """B away from zero, so that a test of merging is not trivially true."""
    generator = torch.Generator().manual_seed(3)
    for layer in lora_layers(model).values():
        with torch.no_grad():
            layer.lora.B.copy_(torch.randn(layer.lora.B.shape, generator=generator) * 0.1)
    return model


def loss_of(model) -> torch.Tensor:
    return F.cross_entropy(model(IDS, LENGTHS), LABELS)


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(left: dict, right: dict) -> bool:
    return set(left) == set(right) and all(torch.equal(left[name], right[name]) for name in left)


def trainable(model) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# --- the two promises ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("targets", [BLOCK_TARGETS, "all"], ids=["blocks", "all"])
@pytest.mark.parametrize("packed", [True, False])
def test_fresh_lora_layers_change_no_logit_not_even_by_a_bit(dtype, targets, packed):
    model = classifier(dtype)
    model.packed = packed
    before = model(IDS, LENGTHS)
    replace_linear_with_lora(model, rank=4, alpha=8, targets=targets)
    assert len(lora_layers(model)) == 6 * TINY.n_layers + (targets == "all")
    assert torch.equal(model(IDS, LENGTHS), before)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_training_leaves_the_base_bit_for_bit_alone(dropout):
    model = classifier()
    base = snapshot(model)
    torch.manual_seed(0)
    replace_linear_with_lora(model, rank=4, alpha=8, dropout=dropout)
    start = snapshot(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    first = loss_of(model).item()
    for _ in range(5):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    model.eval()
    assert loss_of(model).item() < first
    after = snapshot(model)
    for name in after:
        learned = ".lora." in name or name.startswith("head.")
        assert torch.equal(after[name], start[name]) != learned, name
    frozen = {name.replace(".linear.", "."): t for name, t in after.items() if ".lora." not in name}
    for name in set(base) - {"head.weight", "head.bias"}:
        assert torch.equal(frozen[name], base[name]), name


def test_gradients_exist_only_where_promised():
    model = classifier()
    replace_linear_with_lora(model, rank=4, alpha=8)
    loss_of(model).backward()
    for name, parameter in model.named_parameters():
        wanted = ".lora." in name or name.startswith("head.")
        assert parameter.requires_grad == wanted == (parameter.grad is not None), name


def test_the_first_backward_moves_b_and_not_a():
    """B = 0 cuts A off from the loss; B itself sees x A, which is not zero."""
    model = classifier()
    replace_linear_with_lora(model, rank=4, alpha=8)
    loss_of(model).backward()
    for layer in lora_layers(model).values():
        assert layer.lora.A.grad.eq(0).all()
        assert layer.lora.B.grad.ne(0).any()


# --- the layer's sums ---


def layer_for(inputs=5, outputs=7, rank=3, bias=True, dtype=torch.float64, **more):
    torch.manual_seed(1)
    layer = LinearWithLoRA(nn.Linear(inputs, outputs, bias=bias, dtype=dtype), rank, 6, **more)
    nn.init.normal_(layer.lora.B)
    return layer.requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 4, 5), (0, 5)])
def test_the_form_in_use_equals_the_form_to_read(bias, shape):
    layer = layer_for(bias=bias)
    layer.lora.requires_grad_(True)
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    results = []
    fused = copy.deepcopy(layer)
    fuse(fused)
    assert type(layer) is LinearWithLoRA and type(fused) is FusedLinearWithLoRA
    for form in (fused, layer):
        y = form(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, form.lora.A, form.lora.B])])
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-12, rtol=1e-12)


def three_layers(**more) -> list[LinearWithLoRA]:
    """As query, key and value, but of different ranks and sizes, one without bias."""
    layers = [
        layer_for(rank=rank, outputs=outputs, bias=bias, **more)
        for rank, outputs, bias in ((3, 7, True), (1, 2, False), (5, 4, True))
    ]
    for layer in layers:
        layer.lora.scale = 2.0
        layer.lora.requires_grad_(True)
    return layers


def different_scale(layers):
    layers[1].lora.scale = 3.0


def one_merged(layers):
    layers[0].merge()


def one_base_trained(layers):
    layers[2].linear.weight.requires_grad_(True)


@pytest.mark.parametrize(
    "change", [lambda layers: None, different_scale, one_merged, one_base_trained]
)
@pytest.mark.parametrize("used", [(0, 1, 2), (0, 2), (1,)])
def test_layers_that_read_the_same_x_together_equal_each_alone(change, used):
    layers = three_layers()
    change(layers)
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    inputs = [x, *(p for layer in layers for p in layer.lora.parameters())]
    results = []
    plain = MultiHeadAttention(TINY)
    fused = MultiHeadAttention(TINY)
    fuse(fused)
    expected = plain.project(x, layers)
    for layer in layers:
        fuse(layer)
    for outputs in (fused.project(x, layers), expected):
        loss = sum(outputs[index].square().sum() for index in used)
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        results.append([*outputs, *gradients])
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-12, rtol=1e-12)


def test_gradcheck_together():
    layers = three_layers()
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    factors = [p for layer in layers for p in (layer.lora.A, layer.lora.B)]

    for layer in layers:
        fuse(layer)

    def forward(x, *_):
        return fused_outputs(layers, x)

    assert torch.autograd.gradcheck(forward, (x, *factors))


def test_the_equation_by_hand():
    """y = x W^T + b + (alpha / rank) (x A) B with 1 x 2 = 2, 2 * 3 = 6, 6 * 4 / 2 * 5 = 60."""
    linear = nn.Linear(1, 1)
    layer = LinearWithLoRA(linear, rank=2, alpha=4)
    with torch.no_grad():
        linear.weight.fill_(2.0)
        linear.bias.fill_(0.5)
        layer.lora.A.copy_(torch.tensor([[3.0, 0.0]]))
        layer.lora.B.copy_(torch.tensor([[5.0], [9.0]]))
    x = torch.tensor([[2.0]])
    assert layer(x).item() == 2 * 2 + 0.5 + (4 / 2) * (2 * 3) * 5
    assert layer.lora(x).item() == 60
    assert layer.lora.delta().item() == 30


@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck(bias):
    layer = layer_for(bias=bias)
    fuse(layer)
    A, B = layer.lora.A, layer.lora.B

    def forward(x, a, b):
        return torch.func.functional_call(layer, {"lora.A": a, "lora.B": b}, x)

    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    inputs = (x, A.detach().requires_grad_(), B.detach().requires_grad_())
    assert torch.autograd.gradcheck(forward, inputs)


def test_only_the_gradients_asked_for():
    layer = layer_for()
    fuse(layer)
    layer.lora.B.requires_grad_(True)
    layer(torch.randn(4, 5, dtype=torch.float64)).sum().backward()
    assert layer.lora.B.grad is not None
    assert layer.lora.A.grad is None


def test_a_second_derivative_is_refused_rather_than_wrong():
    layer = layer_for()
    fuse(layer)
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_base_that_is_not_frozen_gets_its_gradients_too():
    model = classifier(torch.float64)
    replace_linear_with_lora(model, rank=4, alpha=8, freeze=False)
    with_random_updates(model)
    loss_of(model).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


def test_dropout_acts_on_the_update_and_only_while_training():
    layer = layer_for(dropout=0.5)
    x = torch.randn(64, 5, dtype=torch.float64)
    layer.eval()
    expected = layer(x)
    assert torch.equal(layer(x), expected)
    layer.train()
    assert not torch.allclose(layer(x), layer(x))
    torch.manual_seed(0)
    dropped = layer(x)
    torch.manual_seed(0)
    update = layer.lora.scale * F.dropout(x, 0.5) @ layer.lora.A @ layer.lora.B
    torch.testing.assert_close(dropped, layer.linear(x) + update, atol=1e-12, rtol=0)
    drawn = layer(x.expand(4000, *x.shape))
    error = drawn.std(0) / 4000**0.5  # of the mean
    assert ((drawn.mean(0) - expected).abs() < 5 * error).all()  # right on average
    nn.init.zeros_(layer.lora.B)
    assert torch.equal(layer(x), layer.linear(x))  # the frozen path drops nothing


@pytest.mark.parametrize("training", [True, False])
def test_lora_layers_join_a_model_in_its_mode(training):
    model = classifier().train(training)
    replace_linear_with_lora(model, 4, 8, dropout=0.5)
    with_random_updates(model)
    assert all(module.training == training for module in model.modules())
    assert torch.equal(model(IDS, LENGTHS), model(IDS, LENGTHS)) != training


def test_scale():
    assert LoRALayer(8, 8, rank=4, alpha=8).scale == 2
    assert LoRALayer(8, 8, rank=16, alpha=8, rslora=True).scale == 2  # 8 / sqrt(16)
    plain, double = (layer_for().lora for _ in range(2))
    double.scale *= 2
    x = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(double(x), 2 * plain(x))


def test_a_starts_within_one_over_root_of_the_inputs_as_in_peft():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    ours = LoRALayer(768, 768, rank=16, alpha=16).A
    theirs = get_peft_model(nn.Sequential(nn.Linear(768, 768)), LoraConfig(target_modules=["0"]))
    theirs = theirs.base_model.model[0].lora_A["default"].weight
    bound = 1 / math.sqrt(768)
    for drawn in (ours, theirs):
        assert 0.99 * bound < drawn.abs().max() <= bound
        assert abs(drawn.std().item() / (bound / math.sqrt(3)) - 1) < 0.03  # that of a uniform
    lesson = torch.empty(768, 16)
    nn.init.kaiming_uniform_(lesson, a=math.sqrt(5))
    assert abs(lesson.abs().max() / bound - math.sqrt(768 / 16)) < 0.1  # 6.9 times wider


def test_same_seed_same_a():
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(LoRALayer(8, 8, 4, 4).A)
    assert torch.equal(*drawn)


# --- precision ---


def test_autocast_in_bfloat16_with_float32_parameters():
    model = with_random_updates_of(classifier())
    exact = model(IDS, LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(IDS, LENGTHS)
        loss = F.cross_entropy(logits.float(), LABELS)
    loss.backward()
    torch.testing.assert_close(logits.float(), exact, atol=0.01, rtol=0)
    rough = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss_of(model).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rough[name].dtype == parameter.dtype == torch.float32
            angle = F.cosine_similarity(rough[name].flatten(), parameter.grad.flatten(), dim=0)
            assert angle > 0.998, name


def with_random_updates_of(model):
    replace_linear_with_lora(model, rank=4, alpha=8)
    return with_random_updates(model)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_bfloat16_base_with_float32_updates(dropout):
    torch.manual_seed(0)
    layer = LinearWithLoRA(nn.Linear(16, 8, dtype=torch.bfloat16), 4, 8, dropout)
    nn.init.normal_(layer.lora.B)
    layer.linear.requires_grad_(False)
    x = torch.randn(3, 16, dtype=torch.bfloat16, requires_grad=True)
    y = layer(x)
    y.float().sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
    assert layer.lora.A.dtype == layer.lora.A.grad.dtype == torch.float32
    layer.eval()
    expected = F.linear(x.float(), layer.linear.weight.float() + layer.lora.delta())
    expected += layer.linear.bias.float()
    torch.testing.assert_close(layer(x).float(), expected, atol=0.05, rtol=0)  # of up to 6.6


# --- merging ---


def test_merging_and_unmerging_are_exact_to_rounding():
    model = with_random_updates_of(classifier(torch.float64)).eval()
    before, weights = model(IDS, LENGTHS), snapshot(model)
    merge(model)
    torch.testing.assert_close(model(IDS, LENGTHS), before, atol=1e-12, rtol=0)
    changed = [n for n, t in model.state_dict().items() if not torch.equal(t, weights[n])]
    assert len(changed) == 6 * TINY.n_layers
    assert all(name.endswith(".linear.weight") for name in changed)
    unmerge(model)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], atol=1e-15, rtol=1e-14)
    torch.testing.assert_close(model(IDS, LENGTHS), before, atol=1e-12, rtol=0)


def test_merge_in_float32():
    model = with_random_updates_of(classifier()).eval()
    before = model(IDS, LENGTHS)
    merge(model)
    torch.testing.assert_close(model(IDS, LENGTHS), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("merged_before", [True, False])
def test_unloading_leaves_a_plain_model(merged_before):
    model = with_random_updates_of(classifier(torch.float64)).eval()
    names = set(classifier().state_dict())
    before = model(IDS, LENGTHS)
    if merged_before:
        merge(model)
    state, expected = snapshot(model), merged_state(model)
    assert same(snapshot(model), state)  # asking for them has changed nothing
    merge_and_unload(model)
    assert set(model.state_dict()) == names
    assert same(snapshot(model), expected)
    torch.testing.assert_close(model(IDS, LENGTHS), before, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "prepare, action, message",
    [
        (lambda m: merge(m), merge, "merged already"),
        (lambda m: lora_layers(m)["body.trf_blocks.2.ff.fc2"].merge(), merge, "merged already"),
        (lambda m: None, unmerge, "not merged"),
        (lambda m: (merge(m), unmerge(m)), unmerge, "not merged"),
        (lambda m: merge_and_unload(m), merge, "no LoRA layers"),
        (lambda m: None, lambda m: replace_linear_with_lora(m, 4, 8), "LoRA layers already"),
    ],
    ids=["merge twice", "one merged", "unmerge unmerged", "unmerge twice", "none", "inject twice"],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(prepare, action, message):
    model = with_random_updates_of(classifier())
    prepare(model)
    before = snapshot(model)
    with pytest.raises(InputError, match=message):
        action(model)
    assert same(snapshot(model), before)


def test_a_single_layer_guards_itself():
    layer = layer_for()
    with pytest.raises(InputError, match="not merged"):
        layer.unmerge()
    layer.merge()
    with pytest.raises(InputError, match="merged already"):
        layer.merge()
    with pytest.raises(InputError, match="has a LoRA layer already"):
        LinearWithLoRA(layer, 2, 2)


# --- which layers ---


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"targets": ["W_query", "c_attn"]}, "c_attn; choose from W_query, W_key, W_value"),
        ({"targets": []}, "choose from"),
        ({"rank": 0}, "rank must be a whole number of at least 1, not 0"),
        ({"rank": -2}, "rank"),
        ({"rank": 2.5}, "rank"),
        ({"rank": True}, "rank"),
        ({"alpha": 0}, "alpha must be a number above 0, not 0"),
        ({"alpha": math.nan}, "alpha"),
        ({"alpha": "16"}, "alpha"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_a_setting_out_of_range_is_refused_and_changes_nothing(settings, message):
    model = classifier()
    before = snapshot(model)
    with pytest.raises(InputError, match=message):
        replace_linear_with_lora(model, **({"rank": 4, "alpha": 8} | settings))
    assert same(snapshot(model), before)
    assert not lora_layers(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_targets_by_name():
    model = classifier()
    replaced = replace_linear_with_lora(model, 4, 8, targets=["W_query", "W_value"])
    expected = [
        f"body.trf_blocks.{i}.att.{name}"
        for i in range(TINY.n_layers)
        for name in ("W_query", "W_value")
    ]
    assert replaced == expected == list(lora_layers(model))
    # 2 matrices a block, A and B of 32 x 4 each; and the head, 32 x 2 + 2
    assert trainable(model) == TINY.n_layers * 2 * 2 * 32 * 4 + 66


def test_one_name_alone():
    assert len(replace_linear_with_lora(classifier(), 4, 8, targets="fc1")) == TINY.n_layers


def test_the_head_is_trained_itself_unless_it_is_a_target():
    model = classifier()
    replace_linear_with_lora(model, 4, 8)
    assert isinstance(model.head, nn.Linear)
    assert model.head.weight.requires_grad
    model = classifier()
    replace_linear_with_lora(model, 4, 8, targets="all")
    assert isinstance(model.head, LinearWithLoRA)
    assert not model.head.linear.weight.requires_grad


# --- counts, on the meta device: shapes without numbers ---


@pytest.mark.parametrize("targets, expected", [("all", 2_666_528), (BLOCK_TARGETS, 2_655_746)])
def test_the_lessons_counts_at_rank_16(targets, expected):
    """12 blocks * 221,184, and on the head LoRA's 12,320 or its own 1,538."""
    with torch.device("meta"):
        model = GPTClassifier(GPTConfig())
    assert trainable(model) == 124_441_346
    replace_linear_with_lora(model, rank=16, alpha=16, targets=targets)
    assert trainable(model) == expected
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    "preset, formula, expected",
    [
        ("gpt2-medium", 2 * (24 * 2) * 1024 * 4, 393_216),
        ("gpt2-large", 2 * (36 * 2) * 1280 * 4, 737_280),
    ],
)
def test_the_papers_count_for_query_and_value_at_rank_4(preset, formula, expected):
    """Hu et al. 2021, section 5.1: 2 * (adapted matrices) * d_model * r, nothing else counted.

    Section 5.4 adapts W_q and W_v of GPT-2 at r = 4, and a language model has no new head. Table 3
    prints 0.35M for GPT-2 M and 0.77M for GPT-2 L. The formula, and any layer built by it, gives
    0.39M and 0.74M; the paper's own GPT-3 figures do follow the formula (table 4, below). The two
    printed figures are a thousandth of the models' 355M and 774M, so they may be a rounded share.
    """
    with torch.device("meta"):
        model = GPTModel(PRESETS[preset])
    replace_linear_with_lora(model, rank=4, alpha=32, targets=["W_query", "W_value"])
    assert trainable(model) == formula == expected


@pytest.mark.parametrize("rank, printed", [(1, "4.7M"), (8, "37.7M")])
def test_the_papers_count_for_gpt3(rank, printed):
    """Hu et al. 2021, table 4: GPT-3 (96 layers, width 12,288), W_q and W_v."""
    with torch.device("meta"):
        layer = LoRALayer(12288, 12288, rank, rank)
    count = 96 * 2 * sum(parameter.numel() for parameter in layer.parameters())
    assert f"{count / 1e6:.2f}"[:-1] + "M" == printed


# --- peft as the judge ---


class TwoLinears(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 10), nn.Linear(10, 4, bias=False)

    def forward(self, x):
        return self.fc2(torch.tanh(self.fc1(x)))


@pytest.mark.parametrize("rslora", [False, True])
def test_outputs_and_gradients_equal_pefts_on_linears(rslora):
    from peft import LoraConfig, get_peft_model

    ours, theirs = TwoLinears().double(), TwoLinears().double()
    theirs.load_state_dict(ours.state_dict())
    replace_linear_with_lora(ours, rank=3, alpha=5, targets=["fc1", "fc2"], rslora=rslora)
    with_random_updates(ours)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["fc1", "fc2"], use_rslora=rslora)
    theirs = get_peft_model(theirs, config, autocast_adapter_dtype=False).double()
    pairs = []
    for name, layer in lora_layers(ours).items():
        twin = theirs.base_model.model.get_submodule(name)
        pairs += [(layer.lora.A, twin.lora_A["default"].weight)]
        pairs += [(layer.lora.B, twin.lora_B["default"].weight)]
    with torch.no_grad():
        for mine, other in pairs:
            other.copy_(mine.T)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    for model in (ours, theirs):
        model(x).square().sum().backward()
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-12, rtol=0)
    for mine, other in pairs:
        torch.testing.assert_close(mine.grad.T, other.grad, atol=1e-12, rtol=0)
    merge_and_unload(ours)
    merged = theirs.merge_and_unload()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, merged.state_dict()[name], atol=1e-12, rtol=0)


def test_outputs_and_gradients_equal_pefts_on_gpt2():
    """On the layers that GPT-2 in transformers does not fuse: out_proj, fc1 and fc2.

    The fused query, key and value are in tests/test_peft_format.py.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2ForSequenceClassification

    model = classifier(torch.float64)
    nn.init.zeros_(model.head.bias)  # transformers' head has none
    pad = TINY.vocab_size - 1
    twin = GPT2ForSequenceClassification(hf_config(TINY, num_labels=2, pad_token_id=pad)).double()
    state = {name: t.clone() for name, t in in_hf_names(model.body.state_dict()).items()}
    twin.load_state_dict(state | {"score.weight": model.head.weight})
    layers = {"att.out_proj": "attn.c_proj", "ff.fc1": "mlp.c_fc", "ff.fc2": "mlp.c_proj"}
    replace_linear_with_lora(model, rank=3, alpha=6, targets=["out_proj", "fc1", "fc2"])
    with_random_updates(model)
    config = LoraConfig(
        task_type="SEQ_CLS", r=3, lora_alpha=6, target_modules=list(layers.values()),
        fan_in_fan_out=True,
    )  # fmt: skip
    twin = get_peft_model(twin, config, autocast_adapter_dtype=False).double()
    pairs = []
    for i in range(TINY.n_layers):
        for name, conv in layers.items():
            mine = model.body.get_submodule(f"trf_blocks.{i}.{name}").lora
            other = twin.base_model.model.get_submodule(f"transformer.h.{i}.{conv}")
            pairs.append((mine.A, other.lora_A["default"].weight))
            pairs.append((mine.B, other.lora_B["default"].weight))
    with torch.no_grad():
        for mine, other in pairs:
            other.copy_(mine.T)
    ids = IDS % pad
    real = torch.arange(9) < LENGTHS[:, None]
    logits = model(ids, LENGTHS)
    theirs = twin(torch.where(real, ids, pad)).logits
    torch.testing.assert_close(logits, theirs, atol=1e-10, rtol=0)
    F.cross_entropy(logits, LABELS).backward()
    F.cross_entropy(theirs, LABELS).backward()
    for mine, other in pairs:
        torch.testing.assert_close(mine.grad.T, other.grad, atol=1e-10, rtol=0)
    head = twin.base_model.model.score.modules_to_save["default"].weight
    torch.testing.assert_close(model.head.weight.grad, head.grad, atol=1e-10, rtol=0)


@pytest.mark.parametrize("n_in, outs", [(5, (12,)), (12, (5,)), (6, (6, 6, 6)), (7, (3, 9))])
@pytest.mark.parametrize("bias", [True, False])
def test_the_joined_form_for_the_compiler(n_in, outs, bias):
    draw = torch.Generator().manual_seed(0)

    def random(*shape, trained=False) -> torch.Tensor:
        tensor = torch.randn(*shape, generator=draw, dtype=torch.float64)
        return tensor.requires_grad_(trained)

    x, layers = random(2, 4, n_in, trained=True), []
    for out in outs:
        b = random(out) if bias else None
        A, B = random(n_in, 3, trained=True), random(3, out, trained=True)
        layers.append((random(out, n_in), b, A, B))
    tensors = [tensor for layer in layers for tensor in layer]
    for y, (W, b, A, B) in zip(joined_lora_linears(x, 0.7, tensors), layers):
        expected = x @ W.T + 0.7 * (x @ A @ B) + (b if bias else 0)
        torch.testing.assert_close(y, expected, atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(
        lambda x, *tensors: joined_lora_linears(x, 0.7, list(tensors)), (x, *tensors)
    )
